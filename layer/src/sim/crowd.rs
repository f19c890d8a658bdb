//! A layer that stands, of simulated members, whose time is the true time: machines of other processes may join it, over flows that
//! the caller carries.

use std::time::Duration;

use ipnet::IpNet;
use proto::ipcp::{Command, Invite};
use proto::{Code, FlowId, Framing, Label, Reason};

use super::Failure;
use super::acts::over;
use super::host::What;
use super::label;
use super::net::Cable;
use super::scale::{Large, Scale};
use super::world::{EPOCH, World};
use crate::crypt::Invitation;
use crate::{FlowTell, UnixTime, Via};

/// The members, and what is on its way from them to the outside.
pub struct Crowd {
    world: World,
    /// Stands for all that is outside.
    outside: usize,
}

impl Crowd {
    /// Members `m0`, `m1` and so on, of which each may send and receive `10.64.0.0` and its number, and of which the first `gates`
    /// take flows from outside. `wall` is the true time.
    pub fn new(scale: &Scale, gates: usize, wall: UnixTime) -> Result<Self, Box<Failure>> {
        let mut large = Large::new(scale);
        let outside = large.world.outside(label("outside".to_owned()));
        for gate in 0..gates.min(scale.members) {
            let cable = Cable::clean(Duration::ZERO, MTU);
            large.world.net.add((gate, outside), cable);
        }
        let skew = wall.0.as_millis() as i64 - EPOCH.as_millis() as i64;
        for host in &mut large.world.hosts {
            host.skew = skew;
        }
        large.world.granted = Some(granted);
        if let Err(reason) = large.world.prepare(scale.members, &mut large.chance) {
            large.world.fail(reason.to_string());
        }
        let mut crowd = Self {
            world: large.world,
            outside,
        };
        crowd.advance(Duration::ZERO)?;
        Ok(crowd)
    }

    /// An invitation by way of the first gate.
    pub fn invite(&mut self, member: Label, prefixes: Vec<IpNet>) -> Result<String, Box<Failure>> {
        let ask = Invite {
            member: Some(member),
            prefixes,
            expires_ms: 3_600_000,
            uses: 1,
            hints: Vec::new(),
            groups: Vec::new(),
        };
        self.world.command(0, What::Url, Command::Invite(ask));
        self.advance(self.world.elapsed)?;
        let by = self.world.hosts[0].name.clone();
        let url = self.world.url.take().unwrap_or_default();
        let url = Invitation::parse(&url, UnixTime(Duration::ZERO));
        match url {
            Ok(url) => Ok(url.through(vec![by]).to_string()),
            Err(reason) => Err(self.failure(reason.to_string())),
        }
    }

    /// A flow from outside to the member of that name, if it is a gate.
    pub fn open(&mut self, name: &str) -> Option<FlowId> {
        let host = self.world.host_of(name)?;
        self.world.net.cable(host, self.outside)?;
        let (there, here) = self.world.net.connect(host, self.outside, Framing::Train);
        let layer = over().pop()?;
        let up = FlowTell::Up {
            lower: there,
            over: layer,
            mtu: MTU,
            framing: Framing::Train,
            via: Via::Accepted(None),
        };
        self.world.tell(Duration::ZERO, host, up);
        Some(here)
    }

    /// Nobody is there any more.
    pub fn close(&mut self, flow: FlowId) {
        let end = (self.outside, flow);
        let Some((host, lower)) = self.world.net.remove(end) else {
            return;
        };
        let gone = Reason::new(Code::Closed, "the other side is gone");
        self.world
            .tell(Duration::ZERO, host, FlowTell::Down(lower, gone));
    }

    /// A packet came in; `false` if that flow has ended.
    pub fn receive(&mut self, flow: FlowId, bytes: &[u8]) -> bool {
        let end = self.world.net.other_end((self.outside, flow));
        let Some(end) = end else { return false };
        self.world.arrive(end, bytes);
        true
    }

    /// Lets time pass, until so long after the beginning.
    pub fn advance(&mut self, elapsed: Duration) -> Result<(), Box<Failure>> {
        let more = elapsed.saturating_sub(self.world.elapsed);
        self.world.run(more);
        match self.world.failure.take() {
            None => Ok(()),
            Some(what) => Err(self.failure(what)),
        }
    }

    /// What goes out, in order.
    pub fn sent(&mut self) -> Vec<(FlowId, Vec<u8>)> {
        std::mem::take(&mut self.world.sent)
    }

    /// To how many each of them knows a way, at least.
    pub fn reachable(&self) -> usize {
        let machines = self.world.hosts.iter().filter_map(|h| h.machine.as_ref());
        machines.map(crate::Unicast::reachable).min().unwrap_or(0)
    }

    fn failure(&self, what: String) -> Box<Failure> {
        Box::new(Failure {
            at: self.world.elapsed,
            what,
            hash: self.world.story.hash(),
            mermaid: String::new(),
        })
    }
}

/// What the certificate of a member says.
fn granted(host: usize) -> Vec<IpNet> {
    let [_, b, c, d] = u32::try_from(host).unwrap_or(0).to_be_bytes();
    let address = format!("10.{}.{c}.{d}/32", 64 + b);
    address.parse().into_iter().collect()
}

/// Of a path of 1,500 bytes, without the headers of IPv4 and UDP.
const MTU: u32 = 1472;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Topology;

    #[test]
    fn a_crowd_stands_invites_and_takes_flows_at_its_gates_alone() {
        let scale = Scale {
            members: 20,
            topology: Topology::Random,
            links: 2,
            seed: 1,
        };
        let wall = UnixTime(Duration::from_secs(1_795_000_000));
        let mut crowd = Crowd::new(&scale, 4, wall).unwrap();
        crowd.advance(Duration::from_secs(5)).unwrap();
        assert_eq!(crowd.reachable(), 19);
        assert!(crowd.open("m4").is_none() && crowd.open("nobody").is_none());
        let url = crowd.invite(label("real".to_owned()), Vec::new()).unwrap();
        assert!(
            url.contains("member=real") && url.contains("via=m0"),
            "{url}"
        );
        let flow = crowd.open("m3").unwrap();
        assert!(crowd.receive(flow, b"what means nothing"));
        crowd.close(flow);
        assert!(!crowd.receive(flow, b"more"));
        crowd.advance(Duration::from_secs(10)).unwrap();
    }
}
