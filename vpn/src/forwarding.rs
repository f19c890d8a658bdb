//! Whether the kernel forwards what this host is to forward. It must not change that: it concerns every network of the
//! host, so it is its administrator's to say.

use std::fs;

use ipnet::IpNet;

/// What to do where there are networks behind this host and the kernel forwards nothing to them.
pub fn warning(behind: &[IpNet]) -> Option<String> {
    let families = [
        ("ipv4.ip_forward", false),
        ("ipv6.conf.all.forwarding", true),
    ];
    let off: Vec<&str> = families
        .into_iter()
        .filter(|(_, v6)| behind.iter().any(|net| net.addr().is_ipv6() == *v6))
        .map(|(sysctl, _)| sysctl)
        .filter(|sysctl| !is_on(sysctl))
        .collect();
    let first = off.first()?;
    Some(format!(
        "networks are behind this host, which forwards nothing to them: sysctl -w net.{first}=1{}",
        off.get(1)
            .map(|more| format!(" net.{more}=1"))
            .unwrap_or_default()
    ))
}

/// One that can't be read is taken for set: then there is nothing to advise.
fn is_on(sysctl: &str) -> bool {
    let path = format!("/proc/sys/net/{}", sysctl.replace('.', "/"));
    fs::read_to_string(path).map_or(true, |value| value.trim() != "0")
}
