//! Compiles the messages and services in pure Rust: no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["strata/irm/v1/irm.proto", "strata/layer/v1/layer.proto"];
    for file in files {
        println!("cargo:rerun-if-changed=proto/{file}");
    }
    let grpc = std::env::var_os("CARGO_FEATURE_GRPC").is_some();
    tonic_prost_build::configure()
        .build_client(grpc)
        .build_server(grpc)
        .codec_path("crate::codec::Codec")
        .compile_fds(protox::compile(files, ["proto"])?)?;
    Ok(())
}
