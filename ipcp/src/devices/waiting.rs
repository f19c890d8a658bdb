//! What waits at a device because a link is slow: fair between conversations, each with an age (FQ-CoDel, RFC 8290), so that who
//! fills the link keeps nobody else waiting. It must not read or write anything.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use ip::ends::Ends;
use ip::upper::{Talk, Upper};
use layer::codel::{Bounds, Codel};
use proto::FlowId;

/// The packets of one device, or its frames.
#[derive(Debug)]
pub(super) struct Waiting {
    /// What waits begins with a header of Ethernet.
    frames: bool,
    /// The first has its turn.
    flows: VecDeque<(FlowId, Fair)>,
    bytes: usize,
    /// Conversations are chosen by whoever sends, so hashed with what he can't know.
    hasher: RandomState,
    lost: Lost,
}

/// How many packets were given up since it was asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// The conversation has stood for too long, or the packet has waited for too long.
    pub(super) aged: u64,
    /// Too much waited, and of this conversation the most.
    pub(super) full: u64,
}

/// What waits for one flow.
#[derive(Debug)]
struct Fair {
    /// Who never slows down has no more than this waiting, whatever the rate of the link.
    late: Duration,
    places: Vec<Place>,
    /// The places that have begun to wait; they come first, once.
    fresh: VecDeque<usize>,
    others: VecDeque<usize>,
}

/// A conversation.
#[derive(Debug)]
struct Place {
    /// The hash of whoever took it. When all are taken, more share one.
    whose: u64,
    packets: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    /// What it may still send in this turn.
    deficit: i64,
    codel: Codel,
    /// It is in one of the lists.
    listed: bool,
}

impl Waiting {
    /// Packets of IP wait here.
    pub(super) fn of_packets() -> Self {
        Self::new(false)
    }

    /// Ethernet frames do.
    pub(super) fn of_frames() -> Self {
        Self::new(true)
    }

    fn new(frames: bool) -> Self {
        Self {
            frames,
            flows: VecDeque::new(),
            bytes: 0,
            hasher: RandomState::new(),
            lost: Lost::default(),
        }
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// What was given up since the last call.
    pub(super) fn lost(&mut self) -> Lost {
        std::mem::take(&mut self.lost)
    }

    /// Lets a packet of a flow wait, for no longer than `late`. If that is too much, the oldest of whoever has the most gives way.
    pub(super) fn put(&mut self, (flow, late): (FlowId, Duration), now: Instant, packet: Vec<u8>) {
        let whose = self.whose(&packet);
        let known = self.flows.iter().position(|(other, _)| *other == flow);
        let known = known.unwrap_or_else(|| {
            self.flows.push_back((flow, Fair::new(late)));
            self.flows.len() - 1
        });
        self.bytes += COST + packet.len();
        self.flows[known].1.put(whose, now, packet);
        while self.bytes > MOST {
            self.shed();
        }
    }

    /// What tells the conversation of a packet from others.
    fn whose(&self, packet: &[u8]) -> u64 {
        let (head, packet) = match self.frames {
            true => ethernet(packet),
            false => (&[][..], packet),
        };
        self.hasher.hash_one((
            head,
            Ends::parse(packet).ok().map(|ends| (ends.src, ends.dst)),
            // Fragments have no ports, and neither has what tells of errors or echoes.
            Upper::parse(packet).map(|upper| upper.protocol),
            Talk::parse(packet).map(|talk| (talk.src, talk.dst)),
        ))
    }

    /// The link of a flow is slow no longer: its places are not kept. Says whether nothing waits for it.
    pub(super) fn clear(&mut self, flow: FlowId) -> bool {
        let idle = |fair: &Fair| fair.places.iter().all(|place| place.packets.is_empty());
        (self.flows).retain(|(other, fair)| *other != flow || !idle(fair));
        !self.flows.iter().any(|(other, _)| *other == flow)
    }

    /// Gives packets that wait to `take`, each flow's until it says that it takes no more; a packet of which it says so is not taken.
    /// Flows have their turns first one, then another.
    pub(super) fn serve(&mut self, now: Instant, mut take: impl FnMut(FlowId, &[u8]) -> bool) {
        for (flow, fair) in &mut self.flows {
            let takes = |packet: &[u8]| take(*flow, packet);
            self.bytes -= fair.serve(now, &mut self.lost, takes);
        }
        if !self.flows.is_empty() {
            self.flows.rotate_left(1);
        }
    }

    /// The flow is gone, and what waits for it: so many packets.
    pub(super) fn forget(&mut self, flow: FlowId) -> usize {
        let Some(at) = self.flows.iter().position(|(other, _)| *other == flow) else {
            return 0;
        };
        let gone = self.flows.remove(at);
        let places = gone.iter().flat_map(|(_, fair)| &fair.places);
        places.fold(0, |packets, place| {
            self.bytes -= place.bytes;
            packets + place.packets.len()
        })
    }

    /// Takes the older half of whoever has the most, but no more packets at once than others can wait for.
    fn shed(&mut self) {
        let places = (self.flows.iter_mut()).flat_map(|(_, fair)| &mut fair.places);
        let Some(fattest) = places.max_by_key(|place| place.bytes) else {
            return;
        };
        let before = fattest.bytes;
        for _ in 0..fattest.packets.len().div_ceil(2).min(SHED) {
            fattest.pop();
            self.lost.full += 1;
        }
        self.bytes -= before - fattest.bytes;
    }
}

impl Fair {
    fn new(late: Duration) -> Self {
        let place = || Place {
            whose: 0,
            packets: VecDeque::new(),
            bytes: 0,
            deficit: 0,
            codel: Codel::new(Bounds::LINK),
            listed: false,
        };
        Self {
            late,
            places: std::iter::repeat_with(place).take(PLACES).collect(),
            fresh: VecDeque::new(),
            others: VecDeque::new(),
        }
    }

    fn put(&mut self, whose: u64, now: Instant, packet: Vec<u8>) {
        let at = self.place(whose);
        let place = &mut self.places[at];
        place.bytes += COST + packet.len();
        place.packets.push_back((now, packet));
        if !std::mem::replace(&mut place.listed, true) {
            place.deficit = QUANTUM;
            self.fresh.push_back(at);
        }
    }

    /// The place of a conversation: its own, as before, if any is left.
    fn place(&mut self, whose: u64) -> usize {
        let own = self.places.iter().position(|place| place.whose == whose);
        own.unwrap_or_else(|| {
            let Some(at) = self.places.iter().position(|place| !place.listed) else {
                return whose as usize % PLACES;
            };
            self.places[at].whose = whose;
            self.places[at].codel = Codel::new(Bounds::LINK);
            at
        })
    }

    /// Gives packets until none wait or one isn't taken; how many bytes wait no more.
    fn serve(
        &mut self,
        now: Instant,
        lost: &mut Lost,
        mut take: impl FnMut(&[u8]) -> bool,
    ) -> usize {
        let mut gone = 0;
        while let Some(at) = self.turn() {
            let place = &mut self.places[at];
            let Some((since, packet)) = place.packets.front() else {
                continue;
            };
            let (since, len) = (*since, packet.len());
            let waited = now.saturating_duration_since(since);
            let last = place.bytes <= COST + len.max(QUANTUM as usize);
            let acts = match waited >= self.late {
                true => 1,
                false => place.codel.act(now, waited, last),
            };
            if acts > 0 {
                let before = place.bytes;
                let aged = (0..acts).map_while(|_| place.pop()).count();
                lost.aged += aged as u64;
                gone += before - place.bytes;
                continue;
            }
            if !take(packet) {
                return gone;
            }
            place.deficit -= len as i64;
            place.pop();
            gone += COST + len;
        }
        gone
    }

    /// Whose turn it is, as RFC 8290 has it.
    fn turn(&mut self) -> Option<usize> {
        loop {
            let fresh = self.fresh.front().copied();
            let at = fresh.or_else(|| self.others.front().copied())?;
            let place = &mut self.places[at];
            let spent = place.deficit <= 0;
            if !spent && !place.packets.is_empty() {
                return Some(at);
            }
            let list = match fresh {
                Some(_) => &mut self.fresh,
                None => &mut self.others,
            };
            list.pop_front();
            if spent {
                place.deficit += QUANTUM;
            }
            // Who has nothing left, and comes anew each time, must not go before the others each time.
            if spent || (fresh.is_some() && !self.others.is_empty()) {
                self.others.push_back(at);
            } else {
                place.listed = false;
            }
        }
    }
}

impl Place {
    fn pop(&mut self) -> Option<(Instant, Vec<u8>)> {
        let oldest = self.packets.pop_front()?;
        if self.packets.is_empty() && self.packets.capacity() > MANY {
            self.packets = VecDeque::new();
        }
        self.bytes -= COST + oldest.1.len();
        Some(oldest)
    }
}

/// The header of a frame, with the tags of its VLANs (IEEE 802.1Q), and the packet of IP in it, which is empty if there is none.
fn ethernet(frame: &[u8]) -> (&[u8], &[u8]) {
    let mut kind = 2 * MAC;
    loop {
        let after = kind + 2;
        let Some((head, packet)) = frame.split_at_checked(after) else {
            return (frame, &[]);
        };
        match u16::from_be_bytes([head[kind], head[kind + 1]]) {
            0x8100 | 0x88a8 => kind += TAG,
            0x0800 | 0x86dd => return (head, unpadded(packet)),
            _ => return (head, &[]),
        }
    }
}

/// A packet of IP without what fills a short frame up.
fn unpadded(packet: &[u8]) -> &[u8] {
    let len = match packet {
        [v, _, a, b, ..] if v >> 4 == 4 => u16::from_be_bytes([*a, *b]).into(),
        [v, _, _, _, a, b, ..] if v >> 4 == 6 => 40 + usize::from(u16::from_be_bytes([*a, *b])),
        _ => packet.len(),
    };
    packet.get(..len).unwrap_or(packet)
}

/// Bytes of an address of layer 2, and of a tag.
const MAC: usize = 6;
const TAG: usize = 4;
/// Packets whose places are kept when they are gone.
const MANY: usize = 64;
/// Conversations of a flow that are told from one another.
const PLACES: usize = 64;
/// Bytes that wait at one device, and what each packet takes beside its own.
const MOST: usize = 4 << 20;
const COST: usize = 64;
/// Packets that give way at once.
const SHED: usize = 64;
/// Bytes of one turn: a packet of an Ethernet.
const QUANTUM: i64 = 1514;
/// The longest that anything waits.
pub(super) const LATE: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const FLOW: FlowId = FlowId(1);
    const NEXT: FlowId = FlowId(2);

    /// A datagram from this port with so many bytes in all.
    fn datagram(port: u16, len: u16) -> Vec<u8> {
        let mut out = vec![0; len.into()];
        out[0] = 0x45;
        out[2..4].copy_from_slice(&len.to_be_bytes());
        out[9] = ip::upper::UDP;
        out[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        out[20..22].copy_from_slice(&port.to_be_bytes());
        out
    }

    fn port(packet: &[u8]) -> u16 {
        u16::from_be_bytes([packet[20], packet[21]])
    }

    /// The next packet of whichever flow.
    fn next(waiting: &mut Waiting, now: Instant) -> Option<Vec<u8>> {
        let mut got = None;
        waiting.serve(now, |_, packet| {
            let first = got.is_none();
            if first {
                got = Some(packet.to_vec());
            }
            first
        });
        got
    }

    #[test]
    fn conversations_have_places_of_their_own_until_all_are_taken() {
        let (mut waiting, now) = (Waiting::of_packets(), Instant::now());
        let most = PLACES as u16;
        for port in (0..most).chain(0..most) {
            waiting.put((FLOW, LATE), now, datagram(port, 100));
        }
        let taken = |waiting: &Waiting| -> Vec<usize> {
            let (_, fair) = &waiting.flows[0];
            fair.places
                .iter()
                .map(|place| place.packets.len())
                .collect()
        };
        assert_eq!(taken(&waiting), [2; PLACES]);
        waiting.put((FLOW, LATE), now, datagram(most, 100));
        assert_eq!(taken(&waiting).into_iter().max(), Some(3));
        // Who has nothing waiting makes room for others.
        waiting.serve(now, |_, _| true);
        waiting.put((FLOW, LATE), now, datagram(most, 100));
        waiting.put((FLOW, LATE), now, datagram(most + 1, 100));
        assert_eq!(taken(&waiting).into_iter().max(), Some(1));
    }

    #[test]
    fn who_fills_a_link_keeps_nobody_else_waiting_and_waits_for_no_longer_than_is_allowed() {
        let (mut waiting, greedy, modest) = (Waiting::of_packets(), 1, 2);
        let begin = Instant::now();
        let (mut longest, mut went) = (BTreeMap::new(), BTreeMap::new());
        let mut sent = BTreeMap::<u16, VecDeque<Instant>>::new();
        let mut put = |waiting: &mut Waiting, port, now| {
            let mut packet = datagram(port, 1000);
            let all: &mut VecDeque<Instant> = sent.entry(port).or_default();
            packet[24..32].copy_from_slice(&(all.len() as u64).to_be_bytes());
            all.push_back(now);
            waiting.put((FLOW, LATE), now, packet);
            all.clone()
        };
        // The link takes one packet a millisecond, and is offered three.
        let mut times = BTreeMap::new();
        for ms in 0..4000 {
            let now = begin + MS * ms;
            for _ in 0..3 {
                times.insert(greedy, put(&mut waiting, greedy, now));
            }
            if ms % 20 == 0 {
                times.insert(modest, put(&mut waiting, modest, now));
            }
            let packet = next(&mut waiting, now).expect("the link is never idle");
            let nth = u64::from_be_bytes(packet[24..32].try_into().unwrap()) as usize;
            let waited = now - times[&port(&packet)][nth];
            let most = longest.entry(port(&packet)).or_insert(waited);
            *most = waited.max(*most);
            *went.entry(port(&packet)).or_insert(0) += 1;
        }
        assert_eq!(went[&modest], 200);
        assert!(longest[&modest] <= MS * 2, "{longest:?}");
        assert!(longest[&greedy] < LATE, "{longest:?}");
        let lost = waiting.lost();
        assert!(lost.aged > 7000 && lost.full == 0, "{lost:?}");
    }

    #[test]
    fn bytes_are_bounded_and_whoever_has_the_most_gives_way() {
        let (mut waiting, greedy, modest) = (Waiting::of_packets(), 1, 2);
        let now = Instant::now();
        waiting.put((NEXT, LATE), now, datagram(modest, 1000));
        waiting.put((FLOW, LATE), now, datagram(modest, 1000));
        for _ in 0..5000 {
            waiting.put((FLOW, LATE), now, datagram(greedy, 1000));
            assert!(waiting.bytes <= MOST);
        }
        let (lost, fit) = (waiting.lost(), MOST / (1000 + COST));
        let full = (5002 - fit as u64)..(5002 - fit + SHED) as u64;
        assert!(lost.aged == 0 && full.contains(&lost.full), "{lost:?}");
        let mut got = BTreeMap::new();
        waiting.serve(now, |flow, packet| {
            *got.entry((flow, port(packet))).or_insert(0) += 1;
            true
        });
        assert_eq!((got[&(NEXT, modest)], got[&(FLOW, modest)]), (1, 1));
        assert!(waiting.is_empty());
    }

    #[test]
    fn a_flow_without_room_holds_no_other_up_and_loses_nothing() {
        let (mut waiting, one) = (Waiting::of_packets(), 1);
        let now = Instant::now();
        for flow in [FLOW, NEXT, FLOW, NEXT] {
            waiting.put((flow, LATE), now, datagram(one, 100));
        }
        let mut got = Vec::new();
        let mut serve = |waiting: &mut Waiting, full: FlowId| {
            waiting.serve(now, |flow, _| {
                let takes = flow != full;
                got.extend(takes.then_some(flow));
                takes
            });
            std::mem::take(&mut got)
        };
        assert_eq!(serve(&mut waiting, FLOW), [NEXT, NEXT]);
        assert_eq!(serve(&mut waiting, FLOW), []);
        assert_eq!(serve(&mut waiting, NEXT), [FLOW, FLOW]);
        assert_eq!(
            (waiting.is_empty(), waiting.lost()),
            (true, Lost::default())
        );
        waiting.put((FLOW, LATE), now, datagram(one, 100));
        assert_eq!((waiting.forget(FLOW), waiting.forget(FLOW)), (1, 0));
        assert!(waiting.is_empty() && next(&mut waiting, now).is_none());
    }

    #[test]
    fn conversations_of_frames_are_told_by_what_is_in_them_and_else_by_their_addresses() {
        let waiting = Waiting::of_frames();
        let frame = |to: u8, tags: &[[u8; 4]], kind: u16, packet: &[u8]| {
            let mut out = [[2, 0, 0, 0, 0, to], [2, 0, 0, 0, 0, 1]].concat();
            out.extend(tags.concat());
            out.extend(kind.to_be_bytes());
            out.extend(packet);
            waiting.whose(&out)
        };
        let (ip, arp, tag, service) = (0x0800, 0x0806, [0x81, 0, 0, 7], [0x88, 0xa8, 0, 7]);
        let packet = |port| datagram(port, 100);
        // Same ports, but a longer one.
        let (long, short) = (datagram(1, 900), datagram(1, 30));
        assert_eq!(frame(2, &[], ip, &packet(1)), frame(2, &[], ip, &long));
        // An Ethernet fills those up that are short.
        let filled = [&short[..], &[0; 16]].concat();
        assert_eq!(frame(2, &[], ip, &packet(1)), frame(2, &[], ip, &filled));
        let mut six = [&[0x60, 0, 0, 0, 0, 8, 17, 64][..], &[7; 40]].concat();
        let whole = frame(2, &[], 0x86dd, &six);
        six.extend([0; 6]);
        assert_eq!(whole, frame(2, &[], 0x86dd, &six));
        assert_eq!(frame(2, &[], arp, &[0; 28]), frame(2, &[], arp, &[1; 28]));
        let others = [
            frame(2, &[], ip, &packet(1)),
            frame(2, &[], ip, &packet(2)),
            frame(3, &[], ip, &packet(1)),
            frame(2, &[tag], ip, &packet(1)),
            frame(2, &[tag], ip, &packet(2)),
            frame(2, &[service, tag], ip, &packet(1)),
            frame(2, &[service, tag], ip, &packet(2)),
            frame(2, &[], arp, &packet(1)),
        ];
        let distinct: std::collections::BTreeSet<u64> = others.into();
        assert_eq!(distinct.len(), others.len());
        // What is cut off anywhere is a conversation too.
        let whole = [&[2; 12][..], &tag, &[8, 0], &packet(1)].concat();
        for len in 0..whole.len() {
            waiting.whose(&whole[..len]);
        }
    }

    #[test]
    fn what_is_worth_nothing_so_soon_waits_for_no_longer() {
        let (mut waiting, port) = (Waiting::of_packets(), 1);
        let (begin, late) = (Instant::now(), MS * 80);
        let mut longest = Duration::ZERO;
        // The link takes one packet a millisecond, and is offered three.
        for ms in 0..2000 {
            let now = begin + MS * ms;
            for _ in 0..3 {
                let mut packet = datagram(port, 1000);
                packet[24..28].copy_from_slice(&ms.to_be_bytes());
                waiting.put((FLOW, late), now, packet);
            }
            let packet = next(&mut waiting, now).expect("the link is never idle");
            let put = u32::from_be_bytes(packet[24..28].try_into().unwrap());
            longest = longest.max(MS * (ms - put));
        }
        assert!(longest < late, "{longest:?}");
    }

    #[test]
    fn a_conversation_keeps_its_order() {
        let (mut waiting, one, other) = (Waiting::of_packets(), 1, 2);
        let now = Instant::now();
        for n in 0..100 {
            for port in [one, other] {
                let mut packet = datagram(port, 40 + n * 13);
                packet[30] = n as u8;
                waiting.put((FLOW, LATE), now, packet);
            }
        }
        let mut last = BTreeMap::new();
        while let Some(packet) = next(&mut waiting, now) {
            let before = last.insert(port(&packet), packet[30]);
            assert!(before.is_none_or(|before| before + 1 == packet[30]));
        }
        assert_eq!((last[&one], last[&other]), (99, 99));
    }
}
