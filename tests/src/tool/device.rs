//! A TUN device that does what a test writes down: a wire into the host, and one out of it.

use std::io::{BufRead, Read, Write};

use anyhow::Context;

/// Makes the device and prints a line of hexadecimal digits for each frame that the host gives it. Each line of stdin is a burst of
/// frames, parted by blanks, for the host; the end of stdin is the end. With `heads`, `struct virtio_net_hdr` is in front of each
/// frame for the host, which may be a super-packet; the host's own are always whole packets.
pub(super) fn run(name: &str, heads: bool) -> anyhow::Result<()> {
    let mut config = tun::Configuration::default();
    config.tun_name(name);
    config.platform_config(|platform| {
        platform.ensure_root_privileges(false);
        platform.vnet_hdr(heads);
    });
    let device = tun::create(&config).with_context(|| format!("can't make the device {name}"))?;
    let (mut reader, mut writer) = device.split();
    super::print("up")?;
    std::thread::spawn(move || {
        let ended = (|| loop {
            let mut frame = vec![0; 1 << 17];
            let len = reader.read(&mut frame).context("can't read the device")?;
            let head = if heads { HEAD } else { 0 };
            let digits = frame.get(head..len).unwrap_or_default().iter();
            super::print(&digits.map(|b| format!("{b:02x}")).collect::<String>())?;
        })();
        let ended: anyhow::Result<()> = ended;
        if let Err(error) = ended {
            eprintln!("lab-tool: {error:#}");
        }
    });
    for line in std::io::stdin().lock().lines() {
        let line = line.context("can't read stdin")?;
        let frames: anyhow::Result<Vec<_>> = line.split(' ').map(super::bytes).collect();
        for (n, frame) in frames?.iter().enumerate() {
            if let Err(error) = writer.write(frame) {
                super::print(&format!("frame {n} was refused: {error}"))?;
            }
        }
    }
    Ok(())
}

/// The bytes of `struct virtio_net_hdr`.
const HEAD: usize = 10;
