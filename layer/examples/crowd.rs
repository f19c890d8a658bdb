//! A crowd of simulated members that real ones can join: it answers on UDP as a shim does (docs/protocol.md), so that a real IPC process
//! has a layer of thousands before it on one machine. For measurements and tests; it must not be installed anywhere.
//!
//! `cargo run --release -p layer --features sim --example crowd -- ADDRESS MEMBERS GATES NAME PREFIX` prints one line of JSON with an
//! invitation for NAME, and runs until it is killed. The gates are `m0`, `m1` and so on, all at ADDRESS.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the time of this crowd is the true time, and its door a true one"
)]

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use layer::UnixTime;
use layer::sim::{Crowd, Scale, Topology};
use proto::{FlowId, Label};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, members, gates, name, prefix] = &args[..] else {
        return Err("use: crowd ADDRESS MEMBERS GATES NAME PREFIX".into());
    };
    let scale = Scale {
        members: members.parse()?,
        topology: Topology::Random,
        links: 2,
        seed: 1,
    };
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let crowd = Crowd::new(&scale, gates.parse()?, UnixTime(wall)).map_err(|f| f.what)?;
    let mut outdoors = Outdoors::new(address.parse()?, crowd)?;
    let invitation = outdoors
        .crowd
        .invite(Label::new(name)?, vec![prefix.parse()?])
        .map_err(|f| f.what)?;
    let reachable = outdoors.crowd.reachable();
    let mut out = std::io::stdout();
    writeln!(
        out,
        "{{\"invitation\":\"{invitation}\",\"reachable\":{reachable}}}"
    )?;
    out.flush()?;
    let begin = Instant::now();
    loop {
        outdoors.turn(begin.elapsed())?;
        std::thread::sleep(TURN);
    }
}

/// The sockets.
struct Outdoors {
    crowd: Crowd,
    ip: IpAddr,
    listen: UdpSocket,
    /// By who asked, and for whom.
    asked: BTreeMap<(SocketAddr, String), FlowId>,
    flows: BTreeMap<FlowId, UdpSocket>,
}

impl Outdoors {
    fn new(ip: IpAddr, crowd: Crowd) -> Result<Self, Box<dyn Error>> {
        let listen = UdpSocket::bind((ip, PORT))?;
        listen.set_nonblocking(true)?;
        Ok(Self {
            crowd,
            ip,
            listen,
            asked: BTreeMap::new(),
            flows: BTreeMap::new(),
        })
    }

    /// What has come, then what is due, then what goes out.
    fn turn(&mut self, elapsed: Duration) -> Result<(), Box<dyn Error>> {
        let mut bytes = [0; 2048];
        while let Ok((len, from)) = self.listen.recv_from(&mut bytes) {
            self.request(from, &bytes[..len])?;
        }
        let mut gone = Vec::new();
        for (flow, socket) in &self.flows {
            loop {
                match socket.recv(&mut bytes) {
                    // A sign of life.
                    Ok(0) => {}
                    Ok(len) if self.crowd.receive(*flow, &bytes[..len]) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Ok(_) | Err(_) => {
                        gone.push(*flow);
                        break;
                    }
                }
            }
        }
        for flow in gone {
            self.crowd.close(flow);
            self.flows.remove(&flow);
            self.asked.retain(|_, of| *of != flow);
        }
        self.crowd.advance(elapsed).map_err(|f| f.what)?;
        for (flow, packet) in self.crowd.sent() {
            if let Some(socket) = self.flows.get(&flow) {
                // What the network has no room for is lost, as ever.
                let _ = socket.send(&packet);
            }
        }
        Ok(())
    }

    /// A datagram on the port is the name of a member; who is there answers from a port of the flow's own.
    fn request(&mut self, from: SocketAddr, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
        let Ok(name) = std::str::from_utf8(bytes) else {
            return Ok(());
        };
        let key = (from, name.to_owned());
        if let Some(socket) = self.asked.get(&key).and_then(|flow| self.flows.get(flow)) {
            let _ = socket.send(bytes);
            return Ok(());
        }
        let Some(flow) = self.crowd.open(name) else {
            return Ok(());
        };
        let socket = UdpSocket::bind((self.ip, 0))?;
        socket.connect(from)?;
        socket.set_nonblocking(true)?;
        socket.send(bytes)?;
        self.asked.insert(key, flow);
        self.flows.insert(flow, socket);
        Ok(())
    }
}

/// Where a shim listens.
const PORT: u16 = 3359;
/// How long what has come may wait.
const TURN: Duration = Duration::from_millis(1);
