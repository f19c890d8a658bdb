//! `irm vpn`.

use std::time::Duration;

use clap::{Args, Subcommand};
use ipnet::IpNet;
use proto::Label;
use proto::ipcp::OffloadMode;

use crate::duration::duration;

#[derive(Debug, Subcommand)]
pub(crate) enum VpnVerb {
    /// Bring the VPN of a layer up; returns when its device is up
    #[command(
        after_help = "Examples:\n  irm vpn up --layer ovl\n  irm vpn up --layer ovl --address 10.9.0.1/24 --dev vpn0 --route 10.9.8.0/24=ovl-c\n  irm vpn up --layer ovl --offer 192.168.7.0/24\n  irm vpn up --layer ovl --accept-routes --exit ovl-b --dns=resolved\n  irm vpn up --layer ovl --idle 30s --dscp off\n  irm vpn up --layer ovl --tap --address 192.168.50.1/24"
    )]
    Up(Up),
    /// Take the VPN down: device, addresses, routes
    #[command(after_help = "Example:\n  irm vpn down --layer ovl")]
    Down(Which),
    /// Show the VPN and its peers
    #[command(after_help = "Example:\n  irm vpn status --json")]
    Status(Which),
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// The layer whose members are the peers
    #[arg(long, value_name = "LAYER")]
    pub(crate) layer: Label,
    /// The device's address; unless --tap it must lie in a prefix of this member's certificate [default: those prefixes; of --tap none]
    #[arg(long, value_name = "CIDR", value_parser = super::prefix)]
    pub(crate) address: Option<IpNet>,
    /// The device's name [default: chosen by the VPN]
    #[arg(long, value_name = "NAME", value_parser = device)]
    pub(crate) dev: Option<String>,
    /// A route by way of a member, beside those that certificates grant
    #[arg(long = "route", value_name = "CIDR=MEMBER", value_parser = route)]
    pub(crate) routes: Vec<Route>,
    /// A network behind this host that it forwards to for others; 0.0.0.0/0 or ::/0: it is a way out
    #[arg(long = "offer", value_name = "CIDR", value_parser = super::prefix)]
    pub(crate) offers: Vec<IpNet>,
    /// Take the networks that other members offer, where no rule of the layer's policy says otherwise
    #[arg(long)]
    pub(crate) accept_routes: bool,
    /// Send all else by way of this member, which must offer a default route
    #[arg(long, value_name = "MEMBER")]
    pub(crate) exit: Option<Label>,
    /// Answer for MEMBER.LAYER.internal at the VPN's own address, port 53; resolved: and let systemd-resolved know
    #[arg(long, value_name = "on|resolved", value_parser = ["on", "resolved"], num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    pub(crate) dns: Option<String>,
    /// Close flows on which nothing has moved for so long; the next packet brings them back; 0: never [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) idle: Option<Duration>,
    /// Lower the largest segment of TCP connections to what fits their way
    #[arg(long, value_name = "on|off", default_value = "on", value_parser = switch, action = clap::ArgAction::Set)]
    pub(crate) mss_clamp: bool,
    /// A flow of its own for voice, and for video, by the code points of packets
    #[arg(long, value_name = "on|off", default_value = "on", value_parser = switch, action = clap::ArgAction::Set)]
    pub(crate) dscp: bool,
    /// A segment of Ethernet, layer 2, with the members that ask for it too; its device has no address but --address
    #[arg(long)]
    pub(crate) tap: bool,
    /// Super-packets at the device: where the kernel has them, where it must have them, or never; a kind ends at its first error
    #[arg(long, value_name = "tun=auto|on|off", value_parser = offload)]
    pub(crate) offload: Option<TunOffload>,
    /// How long to wait for the device
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

/// One `CIDR=MEMBER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) prefix: IpNet,
    pub(crate) member: Label,
}

/// How `tun=` stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TunOffload(pub(crate) OffloadMode);

#[derive(Debug, Args)]
pub(crate) struct Which {
    /// Only that of this layer
    #[arg(long, value_name = "LAYER")]
    pub(crate) layer: Option<Label>,
    /// Only this device
    #[arg(long, value_name = "NAME", value_parser = device)]
    pub(crate) dev: Option<String>,
}

fn route(text: &str) -> Result<Route, String> {
    let (prefix, member) = text
        .split_once('=')
        .ok_or("use CIDR=MEMBER, as 10.9.8.0/24=ovl-c")?;
    Ok(Route {
        prefix: prefix
            .parse()
            .map_err(|_| format!("{prefix:?} is no prefix; use ADDR/LENGTH"))?,
        member: Label::new(member).map_err(|e| e.to_string())?,
    })
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("use on or off".to_owned()),
    }
}

fn offload(text: &str) -> Result<TunOffload, String> {
    let mode = text
        .strip_prefix("tun=")
        .ok_or("use tun=auto, tun=on or tun=off")?;
    mode.parse().map(TunOffload)
}

/// What the kernel takes as the name of a device: 1 to 15 printable bytes without '/' or ':'.
fn device(text: &str) -> Result<String, String> {
    let good = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b':';
    if (1..16).contains(&text.len()) && text.bytes().all(good) && text != "." && text != ".." {
        Ok(text.to_owned())
    } else {
        Err("a device has 1 to 15 printable characters without '/' and ':'".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_names_a_prefix_and_a_member() {
        let good = route("10.9.8.0/24=ovl-c").unwrap();
        assert_eq!(
            (good.prefix.to_string().as_str(), good.member.as_str()),
            ("10.9.8.0/24", "ovl-c")
        );
        for bad in [
            "",
            "10.9.8.0/24",
            "10.9.8.0/33=c",
            "10.9.8.0/24=",
            "10.9.8.0/24=C",
        ] {
            assert!(route(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_device_has_a_name_that_the_kernel_takes() {
        assert_eq!(device("vpn0").as_deref(), Ok("vpn0"));
        for bad in ["", "a/b", "a b", "a:1", ".", "sixteen-bytes-xx"] {
            assert!(device(bad).is_err(), "{bad:?} was taken");
        }
    }
}
