//! Work on fixed inputs whose instructions `.ci/counts` counts under callgrind. By themselves these benches only run.

/// Runs the work twice: the first time fills what is kept for later, the second is counted.
pub(crate) fn path(name: &str, packets: usize, mut work: impl FnMut()) {
    work();
    counted(&mut work);
    say(&format!("{name} {packets}"));
}

/// The instructions that this processor, or the one that callgrind feigns, has for ciphers and copies: they choose the code.
pub(crate) fn processor() {
    #[cfg(target_arch = "x86_64")]
    let has = [
        ("sse4.2", is_x86_feature_detected!("sse4.2")),
        ("aes", is_x86_feature_detected!("aes")),
        ("pclmulqdq", is_x86_feature_detected!("pclmulqdq")),
        ("movbe", is_x86_feature_detected!("movbe")),
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("vaes", is_x86_feature_detected!("vaes")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let has: [(&str, bool); 0] = [];
    let has = has.iter().filter(|(_, has)| *has).map(|(name, _)| *name);
    let all: Vec<_> = std::iter::once(std::env::consts::ARCH).chain(has).collect();
    say(&format!("processor {}", all.join(" ")));
}

/// What callgrind looks for by this name. Not inlined, and something comes after the call, so that it stays one.
#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    work();
    std::hint::black_box(());
}

fn say(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{line}");
}
