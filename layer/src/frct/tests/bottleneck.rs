use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proto::QosSpec;
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::frct::{Controller, Frct, Params};

/// One queue that several flows share, and a way back without one.
struct Net {
    now: Instant,
    flows: Vec<[Frct; 2]>,
    /// Bytes per second.
    rate: u64,
    /// The most bytes that wait, and from how many on packets are marked.
    limit: u64,
    mark: u64,
    delay: Duration,
    /// By how much more, at most and by chance, a packet may take on its way there: so they overtake each other.
    jitter: Duration,
    /// Of 1000, in both directions.
    loss: u32,
    busy_until: Instant,
    way: BTreeMap<(Instant, u64), Packet>,
    count: u64,
    chance: ChaCha8Rng,
    read: Vec<u64>,
    /// When each flow begins to send.
    begins: Vec<Instant>,
    /// Ends get the buffers that they want.
    widens: bool,
}

struct Packet {
    flow: usize,
    to: usize,
    pdu: Vec<u8>,
    marked: bool,
}

const MBIT: u64 = 125_000;
const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

impl Net {
    /// 20 ms of round trip and a queue of as much.
    fn new(controllers: &[Controller], mbits: u64) -> Self {
        let now = super::start();
        let flow = |controller: &Controller| {
            let params = Params {
                controller: *controller,
                ..Params::new(QosSpec::DATA, 1400, 7)
            };
            [(); 2].map(|()| Frct::new(now, params.clone()))
        };
        let bdp = mbits * MBIT / 50;
        Self {
            now,
            flows: controllers.iter().map(flow).collect(),
            rate: mbits * MBIT,
            limit: bdp,
            mark: u64::MAX,
            delay: 10 * MS,
            jitter: Duration::ZERO,
            loss: 0,
            busy_until: now,
            way: BTreeMap::new(),
            count: 0,
            chance: ChaCha8Rng::seed_from_u64(1),
            read: vec![0; controllers.len()],
            begins: vec![now; controllers.len()],
            widens: false,
        }
    }

    fn poll(&mut self, flow: usize, end: usize) {
        if end == 0 && self.now >= self.begins[flow] {
            while self.flows[flow][0].writable() {
                self.flows[flow][0].write(self.now, &[7; 30_000]).unwrap();
            }
        }
        if self.widens {
            let wanted = self.flows[flow][end].wanted();
            self.flows[flow][end].widen(wanted);
        }
        let mut pdu = [0; 1400];
        while let Some(len) = self.flows[flow][end].poll(self.now, &mut pdu) {
            if self.chance.next_u32() % 1000 < self.loss {
                continue;
            }
            // The way back is not quite even, so that nothing depends on a beat of both flows.
            let uneven = Duration::from_micros((self.chance.next_u32() % 1000).into());
            let (mut at, mut marked) = (self.now + uneven, false);
            if end == 0 {
                let start = self.busy_until.max(self.now);
                let waiting = (start - self.now).as_nanos() as u64 * self.rate / 1_000_000_000;
                if waiting + len as u64 > self.limit {
                    continue;
                }
                marked = waiting > self.mark;
                at = start + Duration::from_nanos(len as u64 * 1_000_000_000 / self.rate);
                self.busy_until = at;
                let jitter = self.jitter.as_micros() as u32;
                at += Duration::from_micros((self.chance.next_u32() % (jitter + 1)).into());
            }
            self.count += 1;
            let packet = Packet {
                flow,
                to: 1 - end,
                pdu: pdu[..len].to_vec(),
                marked,
            };
            self.way.insert((at + self.delay, self.count), packet);
        }
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        for flow in 0..self.flows.len() {
            self.poll(flow, 0);
        }
        loop {
            let timer = (0..self.flows.len())
                .flat_map(|flow| [(flow, 0), (flow, 1)])
                .filter_map(|(flow, end)| Some((self.flows[flow][end].deadline()?, flow, end)))
                .min();
            let way = self.way.first_key_value().map(|((at, _), _)| *at);
            let next = timer.map(|t| t.0).into_iter().chain(way).min();
            let Some(next) = next.filter(|at| *at <= until) else {
                self.now = until;
                return;
            };
            self.now = self.now.max(next);
            if way == Some(next)
                && let Some((_, packet)) = self.way.pop_first()
            {
                let Packet {
                    flow,
                    to,
                    pdu,
                    marked,
                } = packet;
                let end = &mut self.flows[flow][to];
                let _ = end.receive(self.now, &pdu, marked);
                while let Some(sdu) = end.read() {
                    self.read[flow] += sdu.len() as u64;
                }
                self.poll(flow, to);
            } else if let Some((_, flow, end)) = timer {
                self.poll(flow, end);
            }
        }
    }

    /// The share of the bottleneck that each flow gets in a time, of 1000.
    fn shares(&mut self, time: Duration) -> Vec<u64> {
        let before = self.read.clone();
        self.run(time);
        let whole = self.rate * time.as_millis() as u64 / 1000;
        let shares = self
            .read
            .iter()
            .zip(before)
            .map(|(read, before)| (read - before) * 1000 / whole);
        shares.collect()
    }
}

fn told(what: &str, net: &Net, shares: &[u64]) {
    println!("FIGURE {what}: {shares:?} of 1000");
    for flow in &net.flows {
        println!("  {:?}", flow[0].stats());
    }
}

#[test]
fn one_flow_fills_its_path() {
    for controller in [Controller::Cubic, Controller::Bbr] {
        let mut net = Net::new(&[controller], 100);
        net.run(2 * SECOND);
        let shares = net.shares(2 * SECOND);
        told(
            &format!("{controller:?}, 100 Mbit/s, 20 ms, no loss"),
            &net,
            &shares,
        );
        assert!(shares[0] > 900, "{shares:?}");
    }
}

#[test]
fn bbr_stands_a_loss_of_one_percent_and_cubic_does_not() {
    for (controller, least) in [(Controller::Cubic, 40), (Controller::Bbr, 850)] {
        let mut net = Net::new(&[controller], 100);
        net.loss = 10;
        net.run(2 * SECOND);
        let shares = net.shares(10 * SECOND);
        told(
            &format!("{controller:?}, 100 Mbit/s, 20 ms, 1 % loss"),
            &net,
            &shares,
        );
        assert!(shares[0] > least, "{shares:?}");
    }
}

#[test]
fn packets_that_overtake_each_other_are_not_long_taken_to_be_lost() {
    for controller in [Controller::Cubic, Controller::Bbr] {
        let mut net = Net::new(&[controller], 50);
        net.jitter = 4 * MS;
        net.run(2 * SECOND);
        let shares = net.shares(3 * SECOND);
        told(
            &format!("{controller:?}, 50 Mbit/s, 20 ms, 4 ms of jitter"),
            &net,
            &shares,
        );
        let stats = net.flows[0][0].stats();
        assert!(
            shares[0] > 850 && stats.again * 50 < stats.sent,
            "{stats:?}"
        );
    }
}

#[test]
fn two_flows_with_one_controller_share_a_queue() {
    for controller in [Controller::Cubic, Controller::Bbr] {
        let mut net = Net::new(&[controller; 2], 10);
        // The second comes when the first has filled the queue.
        net.begins[1] = net.now + 300 * MS;
        net.run(300 * MS);
        net.run(10 * SECOND);
        let shares = net.shares(20 * SECOND);
        told(
            &format!("{controller:?}, two flows, 10 Mbit/s, 20 ms"),
            &net,
            &shares,
        );
        let sum = shares[0] + shares[1];
        assert!(sum > 900, "{shares:?}");
        assert!(shares[0].abs_diff(shares[1]) * 10 <= sum, "{shares:?}");
    }
}

#[test]
fn marks_keep_the_queue_short_without_a_loss() {
    let mut net = Net::new(&[Controller::Cubic], 20);
    net.mark = net.limit / 2;
    net.run(SECOND);
    let lost = net.flows[0][0].stats().lost;
    let shares = net.shares(4 * SECOND);
    told("Cubic, 20 Mbit/s, 20 ms, marks", &net, &shares);
    let stats = net.flows[0][0].stats();
    // A mark a round trip at most: each saw-tooth takes several.
    assert!(
        stats.lost == lost && stats.marked > 2 && stats.marked < 60,
        "{stats:?}"
    );
    assert!(shares[0] > 900, "{shares:?}");
}

#[test]
fn buffers_that_begin_small_follow_the_path_until_it_is_full() {
    let run = |widens| {
        let mut net = Net::new(&[Controller::Cubic], 50);
        let params = Params {
            send_buffer: 200_000,
            receive_buffer: 70_000,
            rtt: 20 * MS,
            ..Params::new(QosSpec::DATA, 1400, 7)
        };
        net.flows[0] = [(); 2].map(|()| Frct::new(net.now, params.clone()));
        net.widens = widens;
        net.run(2 * SECOND);
        let shares = net.shares(2 * SECOND);
        told(
            &format!("buffers that widen: {widens}, 50 Mbit/s, 20 ms"),
            &net,
            &shares,
        );
        (shares[0], net.flows[0][1].buffers().receive)
    };
    let (share, room) = run(false);
    assert!(share < 600 && room == 70_000, "{share}, {room}");
    let (share, room) = run(true);
    // Four times what the path holds, and as much again for bursts.
    let most = 2 * 4 * 125_000;
    assert!(share > 900 && room < most, "{share}, {room}");
}
