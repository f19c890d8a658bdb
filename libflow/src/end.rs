//! One end of a flow, below the two faces (async and blocking) that wait in their own ways.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use proto::record::{Item, Peer};
use proto::{Batch, Code, FlowId, Framing, QosSpec, Reason};
use rustix::net::{RecvFlags, SendFlags};

use crate::error::FlowError;
use crate::port::{Joined, Received, RecordSocket, died, misplaced};
use crate::session::Direct;

/// How many bytes of SDUs went each way.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) rx_bytes: AtomicU64,
    pub(crate) tx_bytes: AtomicU64,
}

/// The socket of a flow, what is known of the flow, and the rest of the record that was received last.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) socket: RecordSocket,
    pub(crate) flow: FlowId,
    pub(crate) qos: QosSpec,
    pub(crate) peer: Peer,
    mtu: AtomicU32,
    /// This side writes nothing more.
    shut: AtomicBool,
    /// The other side writes nothing more.
    ended: AtomicBool,
    // Only two readers at once would wait for each other here.
    reader: Mutex<Reader>,
    down: OnceLock<Reason>,
    last_word: Mutex<Option<Reason>>,
    counters: Arc<Counters>,
    // Dropped after the socket has been closed: tells irmd.
    _direct: Option<Direct>,
}

/// The record that was received last, as far as it has not been handed out.
#[derive(Debug, Default)]
struct Reader {
    record: Option<Batch>,
    at: usize,
}

/// Whether a call that could not go on returns or waits in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Try,
    Block,
}

impl End {
    pub(crate) fn new(joined: Joined, direct: Option<Direct>) -> Self {
        let Joined {
            socket,
            welcome,
            handed: _,
        } = joined;
        let counters = direct.as_ref().map(Direct::counters).unwrap_or_default();
        Self {
            socket,
            flow: welcome.flow,
            qos: welcome.qos,
            peer: welcome.peer,
            mtu: AtomicU32::new(welcome.mtu),
            shut: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            reader: Mutex::default(),
            down: OnceLock::new(),
            last_word: Mutex::new(None),
            counters,
            _direct: direct,
        }
    }

    pub(crate) fn mtu(&self) -> u32 {
        self.mtu.load(Ordering::Relaxed)
    }

    pub(crate) fn rx_bytes(&self) -> u64 {
        self.counters.rx_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn tx_bytes(&self) -> u64 {
        self.counters.tx_bytes.load(Ordering::Relaxed)
    }

    /// Whether a read would give something without asking the kernel.
    pub(crate) fn has_pending(&self) -> bool {
        self.reader().record.is_some() || self.down.get().is_some()
    }

    /// The next SDU into `buf`; `None`: nothing there yet.
    pub(crate) fn read(&self, buf: &mut [u8], mode: Mode) -> Result<Option<usize>, FlowError> {
        let mut reader = self.reader();
        loop {
            if let Some(sdu) = reader.peek() {
                let len = sdu.len();
                let Some(room) = buf.get_mut(..len) else {
                    return Err(FlowError::BufferTooSmall { len });
                };
                room.copy_from_slice(sdu);
                reader.advance(len);
                self.counters
                    .rx_bytes
                    .fetch_add(len as u64, Ordering::Relaxed);
                return Ok(Some(len));
            }
            let mut record = Batch::new(Framing::Record);
            if !self.fill(&mut record, mode)? {
                return Ok(None);
            }
            // The usual case: one that fits, of which nothing is left to be kept.
            let only = record.iter().next().filter(|_| record.count() == 1);
            if let Some(sdu) = only
                && let Some(room) = buf.get_mut(..sdu.len())
            {
                room.copy_from_slice(sdu);
                self.counters
                    .rx_bytes
                    .fetch_add(sdu.len() as u64, Ordering::Relaxed);
                return Ok(Some(sdu.len()));
            }
            *reader = Reader {
                record: Some(record),
                at: 0,
            };
        }
    }

    /// All SDUs of the next record, or what is left of the last, into `batch`; `false`: nothing there yet.
    pub(crate) fn read_batch(&self, batch: &mut Batch, mode: Mode) -> Result<bool, FlowError> {
        let mut reader = self.reader();
        if reader.at == 0
            && let Some(whole) = reader.record.take()
        {
            *batch = whole;
        } else if reader.record.is_some() {
            *batch = Batch::new(Framing::Record);
            while let Some(sdu) = reader.peek() {
                let len = sdu.len();
                if let Some(room) = batch.push(len) {
                    room.copy_from_slice(sdu);
                }
                reader.advance(len);
            }
        } else if !self.fill(batch, mode)? {
            return Ok(false);
        }
        let bytes = batch.bytes().len() - 2 * batch.count();
        self.counters
            .rx_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(true)
    }

    /// Writes one SDU; `false`: the kernel holds as much as it takes.
    pub(crate) fn write(&self, sdu: &[u8], mode: Mode) -> Result<bool, FlowError> {
        self.check(sdu.len())?;
        let flags = if mode == Mode::Try {
            SendFlags::DONTWAIT
        } else {
            SendFlags::empty()
        };
        self.sent(self.socket.send_sdu(sdu, flags), sdu.len())
    }

    /// Writes all SDUs of `batch` as one record; `false`: the kernel holds as much as it takes.
    pub(crate) fn write_batch(&self, batch: &Batch, mode: Mode) -> Result<bool, FlowError> {
        if batch.framing() != Framing::Record || !batch.margin().is_empty() {
            return Err(misuse(
                "a flow takes batches with Framing::Record and no margin",
            ));
        }
        if batch.is_empty() {
            return Ok(true);
        }
        let longest = batch.iter().map(<[u8]>::len).max().unwrap_or_default();
        self.check(longest)?;
        let sent = match mode {
            Mode::Try => self.socket.try_send(batch),
            Mode::Block => self.socket.send(batch),
        };
        self.sent(sent, batch.bytes().len() - 2 * batch.count())
    }

    /// Says that nothing more will be written; `false`: the kernel holds as much as it takes.
    pub(crate) fn shut(&self) -> Result<bool, FlowError> {
        if !self.qos.ordered {
            return Err(misuse(
                "a flow without order has no last SDU; say the end in SDUs of your own, or ask for an ordered flow",
            ));
        }
        if let Some(reason) = self.down.get() {
            return Err(FlowError::Down(reason.clone()));
        }
        if self.shut.swap(true, Ordering::Relaxed) {
            return Ok(true);
        }
        let said = self.sent(self.socket.try_send_item(&Item::Shut, None), 0);
        self.shut.store(matches!(said, Ok(true)), Ordering::Relaxed);
        said
    }

    /// What the other side is to hear when this end is dropped.
    pub(crate) fn close_with(&self, reason: Reason) {
        *self
            .last_word
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(reason);
    }

    /// Receives until SDUs came (`true`) or nothing is there (`false`), and acts on control items on the way.
    fn fill(&self, record: &mut Batch, mode: Mode) -> Result<bool, FlowError> {
        loop {
            if let Some(reason) = self.down.get() {
                return Err(FlowError::Down(reason.clone()));
            }
            let ended = self.ended.load(Ordering::Relaxed);
            // After the end only the reason can come why the whole flow is down.
            let flags = if mode == Mode::Try || ended {
                RecvFlags::DONTWAIT
            } else {
                RecvFlags::empty()
            };
            match self.socket.recv(record, flags) {
                Ok(Received::Data | Received::Item(Item::Shut)) if ended => self.went_down(
                    Reason::new(Code::PeerMisbehaved, "more came after the last SDU"),
                ),
                Err(e) if ended && e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(FlowError::End);
                }
                // Said once at least, even if the reason why the flow is down follows at once.
                Ok(Received::Item(Item::Shut)) => {
                    self.ended.store(true, Ordering::Relaxed);
                    return Err(FlowError::End);
                }
                Ok(Received::Data) => return Ok(true),
                Ok(Received::Item(Item::Mtu(mtu))) => self.mtu.store(mtu, Ordering::Relaxed),
                Ok(Received::Item(Item::Down(reason))) => self.went_down(reason),
                Ok(Received::Bad(reason)) => {
                    // If the queue is full, the end of the file says as much.
                    let _ = self.socket.try_send_item(&Item::Down(reason.clone()), None);
                    self.went_down(reason);
                }
                Ok(Received::Item(
                    Item::Join(_)
                    | Item::Welcome(_)
                    | Item::Device(_)
                    | Item::Pair(_)
                    | Item::Frame(_)
                    | Item::Moved(_)
                    | Item::Talk(_),
                )) => {
                    self.went_down(misplaced());
                }
                Ok(Received::End) => self.went_down(died()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => self.went_down(Reason::new(
                    Code::Failed,
                    format!("reading the flow's socket failed: {e}"),
                )),
            }
        }
    }

    fn check(&self, len: usize) -> Result<(), FlowError> {
        if len == 0 {
            return Err(misuse("an SDU has at least one byte"));
        }
        if self.shut.load(Ordering::Relaxed) {
            return Err(misuse("nothing can be written after Flow::shut"));
        }
        let mtu = self.mtu();
        if len > Batch::MAX_PACKET || len > mtu as usize {
            return Err(FlowError::TooLarge {
                len,
                mtu: mtu.min(Batch::MAX_PACKET as u32),
            });
        }
        match self.down.get() {
            Some(reason) => Err(FlowError::Down(reason.clone())),
            None => Ok(()),
        }
    }

    fn sent(&self, result: io::Result<()>, bytes: usize) -> Result<bool, FlowError> {
        match result {
            Ok(()) => {
                self.counters
                    .tx_bytes
                    .fetch_add(bytes as u64, Ordering::Relaxed);
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            // Not noted as down: what has arrived before can still be read, the reason at its end.
            Err(_) => Err(FlowError::Down(
                self.socket.peek_down().unwrap_or_else(died),
            )),
        }
    }

    fn went_down(&self, reason: Reason) {
        // The first reason stays.
        let _ = self.down.set(reason);
    }

    fn reader(&self) -> MutexGuard<'_, Reader> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl std::os::fd::AsRawFd for End {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if self.down.get().is_none() {
            let reason = self
                .last_word
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            let reason = reason
                .unwrap_or_else(|| Reason::new(Code::Closed, "the other side closed the flow"));
            self.socket.say_last(reason);
        }
        self.socket.shutdown();
    }
}

impl Reader {
    fn peek(&self) -> Option<&[u8]> {
        // set_record has checked every length.
        let rest = self.record.as_ref()?.bytes().get(self.at..)?;
        let len = usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?]));
        rest.get(2..2 + len)
    }

    fn advance(&mut self, len: usize) {
        self.at += 2 + len;
        if self
            .record
            .as_ref()
            .is_none_or(|record| self.at >= record.bytes().len())
        {
            *self = Self::default();
        }
    }
}

fn misuse(what: &str) -> FlowError {
    FlowError::ApiMisuse(Reason::new(Code::Usage, what))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::record::Welcome;

    use super::*;

    fn ends() -> (End, End) {
        let (a, b) = RecordSocket::pair().unwrap();
        let end = |socket| {
            let welcome = Welcome {
                devices: false,
                flow: FlowId(1),
                mtu: 2000,
                qos: QosSpec::RAW,
                peer: Peer::default(),
            };
            End::new(
                Joined {
                    socket,
                    welcome,
                    handed: None,
                },
                None,
            )
        };
        (end(a), end(b))
    }

    fn batch(sdus: &[Vec<u8>]) -> Batch {
        let mut batch = Batch::new(Framing::Record);
        for sdu in sdus {
            batch.push(sdu.len()).unwrap().copy_from_slice(sdu);
        }
        batch
    }

    proptest! {
        #[test]
        fn sdus_come_out_as_they_went_in_however_they_are_read(
            records in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 1..9), 1..9),
            ways in prop::collection::vec(any::<bool>(), 1..20),
        ) {
            let (a, b) = ends();
            for record in &records {
                // A record of one goes the other way of writing.
                if let [sdu] = record.as_slice() {
                    prop_assert_eq!(a.write(sdu, Mode::Try), Ok(true));
                } else {
                    prop_assert_eq!(a.write_batch(&batch(record), Mode::Try), Ok(true));
                }
            }
            let sent = records.concat();
            let (mut got, mut buf, mut ways) = (Vec::new(), [0; 200], ways.into_iter().cycle());
            while got.len() < sent.len() {
                if ways.next() == Some(true) {
                    let len = b.read(&mut buf, Mode::Try).unwrap().unwrap();
                    got.push(buf[..len].to_vec());
                } else {
                    let mut some = Batch::new(Framing::Record);
                    prop_assert_eq!(b.read_batch(&mut some, Mode::Try), Ok(true));
                    got.extend(some.iter().map(<[u8]>::to_vec));
                }
            }
            prop_assert_eq!(&got, &sent);
            prop_assert_eq!(b.read(&mut buf, Mode::Try), Ok(None));
            prop_assert_eq!(a.tx_bytes(), b.rx_bytes());
        }
    }

    #[test]
    fn a_new_mtu_holds_for_the_next_write() {
        let (a, b) = ends();
        b.socket.try_send_item(&Item::Mtu(100), None).unwrap();
        assert_eq!(a.read(&mut [0; 9], Mode::Try), Ok(None));
        assert_eq!(
            a.write(&[0; 101], Mode::Try),
            Err(FlowError::TooLarge { len: 101, mtu: 100 })
        );
        assert_eq!(a.write(&[0; 100], Mode::Try), Ok(true));
    }

    #[test]
    fn who_shuts_its_direction_still_reads_and_the_other_side_reads_an_end() {
        let (mut a, mut b) = ends();
        (a.qos, b.qos) = (QosSpec::DATA, QosSpec::DATA);
        assert_eq!(a.write(b"last", Mode::Try), Ok(true));
        assert_eq!((a.shut(), a.shut()), (Ok(true), Ok(true)));
        assert!(matches!(
            a.write(b"more", Mode::Try),
            Err(FlowError::ApiMisuse(_))
        ));
        let mut buf = [0; 9];
        assert_eq!(b.read(&mut buf, Mode::Try), Ok(Some(4)));
        for mode in [Mode::Try, Mode::Block] {
            assert_eq!(b.read(&mut buf, mode), Err(FlowError::End));
        }
        assert_eq!(b.write(b"answer", Mode::Try), Ok(true));
        assert_eq!(a.read(&mut buf, Mode::Try), Ok(Some(6)));
        // The end is not missed if the flow goes down at once.
        assert_eq!(b.shut(), Ok(true));
        drop(b);
        assert_eq!(a.read(&mut buf, Mode::Try), Err(FlowError::End));
        let Err(FlowError::Down(reason)) = a.read(&mut buf, Mode::Try) else {
            panic!("it did not go down");
        };
        assert_eq!(reason.code, Code::Closed);
    }

    #[test]
    fn a_flow_without_order_can_not_be_shut() {
        let (a, b) = ends();
        assert!(matches!(a.shut(), Err(FlowError::ApiMisuse(_))));
        assert_eq!(b.read(&mut [0; 9], Mode::Try), Ok(None));
    }

    #[test]
    fn a_record_that_lies_ends_the_flow_with_the_culprit_named() {
        let (a, b) = ends();
        rustix::net::send(&b.socket, &[0, 9, 1], SendFlags::empty()).unwrap();
        let Err(FlowError::Down(reason)) = a.read(&mut [0; 9], Mode::Try) else {
            panic!("it was taken");
        };
        assert_eq!(reason.code, Code::PeerMisbehaved);
    }
}
