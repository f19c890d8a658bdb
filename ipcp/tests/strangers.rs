//! Whoever opens many lower ends that nobody knows does not keep the process from those that are known.
#![allow(
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test fails by panicking, in its helpers too"
)]
#![allow(dead_code, reason = "each test program uses its part of the helpers")]

mod daemon;

use std::collections::{BTreeMap, VecDeque};
use std::net::UdpSocket;
use std::time::Instant;

use daemon::{Daemon, within};
use ipcp::{Config, In, Interest, Io, Key, Lower, Watch};
use layer::{Input, Ipcp, Now, Output};
use libflow::{Batch, Framing, Secret};
use proto::ipcp::{Answer, Command, Event};
use tokio::sync::mpsc;

/// Tells from which end each packet came; it knows the first of them.
struct Tells {
    out: VecDeque<Output<usize, ()>>,
    heard: mpsc::UnboundedSender<usize>,
}

impl Ipcp for Tells {
    type Lower = usize;
    type Ask = ();
    type Tell = ();

    fn handle(&mut self, _: Now, input: Input<usize, ()>) {
        match input {
            Input::Lower(end, _) => self.heard.send(end).unwrap(),
            Input::Control(id, Command::Status) => {
                let done = Event::Done(id, Ok(Answer::Status(Box::default())));
                self.out.push_back(Output::Control(done));
            }
            other => panic!("{other:?} was not asked for by any test"),
        }
    }

    fn poll(&mut self) -> Option<Output<usize, ()>> {
        self.out.pop_front()
    }

    fn knows(&self, end: usize) -> bool {
        end == 0
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }
}

/// Ends that are sockets, in which packets wait from the beginning.
struct Waiting {
    sockets: Vec<UdpSocket>,
    watches: Vec<Watch>,
    ends: BTreeMap<Key, usize>,
}

impl Waiting {
    fn new(strangers: usize) -> Self {
        let sockets = (0..=strangers).map(|_| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            let other = UdpSocket::bind("127.0.0.1:0").unwrap();
            for _ in 0..EACH {
                other
                    .send_to(b"hello", socket.local_addr().unwrap())
                    .unwrap();
            }
            socket
        });
        Self {
            sockets: sockets.collect(),
            watches: Vec::new(),
            ends: BTreeMap::new(),
        }
    }
}

impl Lower<Tells> for Waiting {
    type Event = ();

    fn start(&mut self, io: &mut Io, _: mpsc::Sender<()>) -> anyhow::Result<()> {
        // The one that is known comes last.
        for (end, socket) in self.sockets.iter().enumerate().rev() {
            let watch = io.watch(socket, Interest::READ)?;
            self.ends.insert(watch.key(), end);
            self.watches.push(watch);
        }
        Ok(())
    }

    fn end(&self, key: Key) -> Option<usize> {
        self.ends.get(&key).copied()
    }

    fn recv(&mut self, _: &mut Io, key: Key) -> Option<In<Tells>> {
        let end = self.ends[&key];
        let mut batch = Batch::new(Framing::Train);
        let len = self.sockets[end].recv(batch.space()).ok()?;
        batch.set_train(len, len);
        Some(Input::Lower(end, batch))
    }

    fn ask(&mut self, _: &mut Io, (): ()) {}
    fn send(&mut self, _: &mut Io, _: usize, _: Batch) {}
    fn writable(&mut self, _: &mut Io, _: Key) {}
    fn event(&mut self, _: &mut Io, (): ()) -> Option<In<Tells>> {
        None
    }
}

/// The ends from which packets came, in that order, beside so many strangers.
async fn order(strangers: usize) -> Vec<usize> {
    let dir = tempfile::tempdir().unwrap();
    let run_dir = dir.path().join("run");
    std::fs::create_dir(&run_dir).unwrap();
    let mut daemon = Daemon::start(&run_dir);
    let (heard, mut hears) = mpsc::unbounded_channel();
    let out = VecDeque::new();
    let config = Config {
        name: "tells".parse().unwrap(),
        kind: "unicast",
        run_dir,
        state_dir: dir.path().join("state"),
        secret: Secret::from([9; 32]),
    };
    let lower = Waiting::new(strangers);
    let process = tokio::spawn(ipcp::run(Tells { out, heard }, lower, config));
    let _attached = daemon.attached().await;
    let mut order = Vec::new();
    while order.len() < (strangers + 1) * EACH {
        order.push(within(hears.recv()).await.unwrap());
    }
    process.abort();
    order
}

/// How many packets of strangers had come with each of those of the one that is known.
fn before(order: &[usize]) -> impl Iterator<Item = (usize, usize)> {
    let known = order.iter().enumerate().filter(|(_, end)| **end == 0);
    known.enumerate().map(|(n, (at, _))| (n, at - n))
}

#[tokio::test]
async fn all_strangers_together_are_read_as_often_as_one_who_is_known_and_each_as_often_as_another()
{
    let order = order(40).await;
    for (known, strangers) in before(&order) {
        assert!(strangers <= known + SHARE, "{strangers} before {known}");
    }
    let mut came = BTreeMap::from_iter((1..=40).map(|end| (end, 0)));
    for end in order.iter().filter(|end| **end > 0) {
        *came.entry(*end).or_default() += 1;
        let (least, most) = (came.values().min(), came.values().max());
        assert!(most.unwrap() - least.unwrap() <= 1, "{came:?}");
    }
}

#[tokio::test]
async fn more_strangers_than_one_look_takes_are_together_read_little_more_than_one_who_is_known() {
    let order = order(250).await;
    for (known, strangers) in before(&order) {
        let most = (known + SHARE) * 2;
        assert!(strangers <= most, "{strangers} before {known}");
    }
}

/// Packets that wait at each.
const EACH: usize = 60;
/// What is read of one end in one turn.
const SHARE: usize = 3;
