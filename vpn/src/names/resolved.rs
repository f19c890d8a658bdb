//! Telling systemd-resolved, by D-Bus, whom to ask for the names of a layer. It must not be told unless the administrator
//! said so. What is told hangs on the device and goes away with it.

use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use proto::{Code, Label, Reason};
use tokio::process::Command;

/// What systemd-resolved is told of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The device.
    pub index: u32,
    /// Where names are answered.
    pub at: Vec<IpAddr>,
    /// The layer whose names they are.
    pub layer: Label,
}

impl Resolved {
    /// Tells it. `busctl` is systemd's own hand on D-Bus: where systemd-resolved is, it is too.
    pub async fn tell(&self) -> Result<(), Reason> {
        for call in self.calls() {
            busctl(&call).await.map_err(|why| {
                let text = format!("systemd-resolved can't be told of the names: {why}; leave =resolved out of --dns, or ask the VPN's address by hand");
                Reason::new(Code::Failed, text)
            })?;
        }
        Ok(())
    }

    /// Servers; the domain, that only questions for it go there; and that no others do.
    fn calls(&self) -> [Vec<String>; 3] {
        let index = self.index.to_string();
        let mut servers = vec![self.at.len().to_string()];
        for address in &self.at {
            let (family, bytes) = match address {
                IpAddr::V4(a) => (AF_INET, a.octets().to_vec()),
                IpAddr::V6(a) => (AF_INET6, a.octets().to_vec()),
            };
            servers.extend([family.to_string(), bytes.len().to_string()]);
            servers.extend(bytes.iter().map(ToString::to_string));
        }
        let domain = format!("{}.{}", self.layer, super::TOP);
        let call = |method: &str, signature: &str, rest: Vec<String>| {
            let head = [method.to_owned(), signature.to_owned(), index.clone()];
            head.into_iter().chain(rest).collect()
        };
        let yes = || "true".to_owned();
        [
            call("SetLinkDNS", "ia(iay)", servers),
            call(
                "SetLinkDomains",
                "ia(sb)",
                vec!["1".to_owned(), domain, yes()],
            ),
            call("SetLinkDefaultRoute", "ib", vec!["false".to_owned()]),
        ]
    }
}

async fn busctl(call: &[String]) -> Result<(), String> {
    let mut command = Command::new("busctl");
    command
        .args(["--system", "--timeout=2", "call"])
        .args([
            BUS,
            "/org/freedesktop/resolve1",
            "org.freedesktop.resolve1.Manager",
        ])
        .args(call)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    match tokio::time::timeout(PATIENCE, command.output()).await {
        Ok(Ok(done)) if done.status.success() => Ok(()),
        Ok(Ok(done)) => {
            let said = String::from_utf8_lossy(&done.stderr);
            Err(said.lines().next().unwrap_or("busctl failed").to_owned())
        }
        Ok(Err(e)) => Err(format!("can't run busctl: {e}")),
        Err(_) => Err("it does not answer".to_owned()),
    }
}

const BUS: &str = "org.freedesktop.resolve1";
const AF_INET: i32 = 2;
const AF_INET6: i32 = 10;
const PATIENCE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_asked_for_the_names_of_the_layer_and_for_nothing_else() {
        let resolved = Resolved {
            index: 7,
            at: vec!["10.7.0.1".parse().unwrap(), "fd07::1".parse().unwrap()],
            layer: Label::new("ovl").unwrap(),
        };
        let calls = resolved.calls().map(|call| call.join(" "));
        assert_eq!(
            calls,
            [
                "SetLinkDNS ia(iay) 7 2 2 4 10 7 0 1 10 16 253 7 0 0 0 0 0 0 0 0 0 0 0 0 0 1",
                "SetLinkDomains ia(sb) 7 1 ovl.internal true",
                "SetLinkDefaultRoute ib 7 false",
            ]
        );
    }
}
