//! Making the device: a TUN, or a TAP.

use std::io;
use std::os::fd::OwnedFd;

use frames::{Offloads, Tun};
use proto::ipcp::OffloadMode;
use proto::{Code, Reason};
use rustix::io::Errno;
use tun_offload::Offload;

/// The name of a network device, as the kernel takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceName(String);

impl DeviceName {
    /// The most bytes of a name.
    pub const MAX: usize = 15;

    /// Checks a text.
    pub fn new(text: &str) -> Result<Self, Reason> {
        let good = |b: u8| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%');
        if text.is_empty()
            || text.len() > Self::MAX
            || text == "."
            || text == ".."
            || !text.bytes().all(good)
        {
            let why = format!(
                "{text:?} is no device name; use 1 to 15 printable characters without '/', ':' and '%'"
            );
            return Err(Reason::new(Code::Usage, why));
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Makes a TUN device without packet information; it is down and has no address. It and its routes go away with this value, also when
/// the process is killed. The caller has made sure that no device has this name.
pub fn create(name: &DeviceName, mode: OffloadMode) -> Result<Tun, Reason> {
    let fd = open(name, tun::Layer::L3)?;
    let offloads = match mode {
        OffloadMode::Off => Offloads::default(),
        OffloadMode::Auto | OffloadMode::On => probe(&fd),
    };
    if mode == OffloadMode::On && !offloads.tcp {
        let why = format!(
            "this kernel has no segmentation offload for {}; use --offload tun=auto",
            name.as_str()
        );
        return Err(Reason::new(Code::Failed, why));
    }
    Ok(Tun::new(fd, offloads))
}

/// The same, a TAP device: each frame is one whole Ethernet frame.
pub fn create_tap(name: &DeviceName) -> Result<Tun, Reason> {
    Ok(Tun::new(open(name, tun::Layer::L2)?, Offloads::default()))
}

/// Has the kernel take no router advertisements from a TAP, which would let any member of the segment give this host a way out.
/// An administrator may have it do so afterwards. Gives what to do where this can't.
pub fn refuse_routers(name: &DeviceName) -> Option<String> {
    let sysctl = format!("net/ipv6/conf/{}/accept_ra", name.as_str());
    let done = std::fs::write(format!("/proc/sys/{sysctl}"), "0");
    match done {
        // Without IPv6 there are none.
        Err(e) if e.kind() != io::ErrorKind::NotFound => Some(format!(
            "{} takes routers of its segment ({e}): sysctl -w {sysctl}=0",
            name.as_str()
        )),
        Ok(()) | Err(_) => None,
    }
}

fn open(name: &DeviceName, layer: tun::Layer) -> Result<OwnedFd, Reason> {
    let mut config = tun::Configuration::default();
    config.tun_name(name.as_str()).layer(layer);
    // What the device is given, it is given by netlink; not by this crate's older calls.
    config.platform_config(|platform| {
        platform.ensure_root_privileges(false);
        platform.vnet_hdr(true);
    });
    let device = tun::create(&config).map_err(|e| refusal(name, &e.into()))?;
    device.set_nonblock().map_err(|e| refusal(name, &e))?;
    Ok(tun_offload::descriptor(device))
}

/// What the kernel says that it can do.
fn probe(fd: &OwnedFd) -> Offloads {
    let tries = [(true, true), (true, false)].map(|(tcp, udp)| Offloads { tcp, udp });
    let has = |o: &Offloads| {
        let Offloads { tcp, udp } = *o;
        tun_offload::set_offload(fd, Offload { tcp, udp }).is_ok()
    };
    tries.into_iter().find(has).unwrap_or_default()
}

fn refusal(name: &DeviceName, error: &io::Error) -> Reason {
    let name = name.as_str();
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::NXIO | Errno::NODEV) => Reason::new(
            Code::Failed,
            format!(
                "can't make the device {name}: /dev/net/tun is missing; load the kernel module tun (modprobe tun)"
            ),
        ),
        Some(Errno::PERM | Errno::ACCESS) => Reason::new(
            Code::Denied,
            format!(
                "can't make the device {name}: not permitted; start irmd as root or with CAP_NET_ADMIN"
            ),
        ),
        Some(Errno::BUSY | Errno::INVAL | Errno::EXIST) => Reason::new(
            Code::Conflict,
            format!("can't make the device {name}: the name is in use; choose another with --dev"),
        ),
        _ => Reason::new(
            Code::Failed,
            format!("can't make the device {name}: {error}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_would_refuse_are_refused_first() {
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "tun%d",
            "a:1",
            "sixteen-bytes-ab",
            "tün",
        ] {
            assert_eq!(
                DeviceName::new(bad).unwrap_err().code,
                Code::Usage,
                "{bad:?}"
            );
        }
        assert!(DeviceName::new("fifteen-bytes-a").is_ok());
    }

    #[test]
    fn refusals_say_what_to_do() {
        let name = DeviceName::new("vpn0").unwrap();
        let say = |e: Errno| refusal(&name, &e.into());
        assert!(say(Errno::NOENT).text.contains("modprobe tun"));
        assert_eq!(say(Errno::PERM).code, Code::Denied);
        assert_eq!(say(Errno::BUSY).code, Code::Conflict);
    }
}
