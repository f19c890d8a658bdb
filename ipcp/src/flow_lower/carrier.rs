//! Which of this host's interfaces have lost their carrier, as the kernel tells it (rtnetlink(7)): a cable was pulled, or the
//! other end of it was switched off. Sending fails in neither case. It must not know flows.
//!
//! How things stand is asked once at the start, and again whenever news were lost.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, sendto,
    socket,
};

use crate::io::{Interest, Io, Key, Watch};

/// The kernel's news of interfaces.
#[derive(Debug)]
pub(super) struct Carrier {
    socket: OwnedFd,
    watch: Watch,
    /// The interfaces that have none.
    without: BTreeSet<u32>,
    /// News were lost, and nothing was asked since.
    stale: bool,
}

/// What the kernel says of one interface.
#[derive(Debug, PartialEq, Eq)]
struct News {
    index: u32,
    name: String,
    carrier: bool,
}

impl Carrier {
    /// Listens from now on, and asks how things stand.
    pub(super) fn new(io: &mut Io) -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUP_LINK))?;
        let watch = io.watch(&socket, Interest::READ)?;
        let carrier = Self {
            socket,
            watch,
            without: BTreeSet::new(),
            stale: false,
        };
        carrier.ask()?;
        Ok(carrier)
    }

    pub(super) fn key(&self) -> Key {
        self.watch.key()
    }

    /// Asks the kernel for all interfaces; it answers as it tells news.
    fn ask(&self) -> io::Result<()> {
        let kernel = NetlinkAddr::new(KERNEL, 0);
        let fd = self.socket.as_raw_fd();
        sendto(fd, &question(), &kernel, MsgFlags::empty())?;
        Ok(())
    }

    /// Reads what there is: the addresses of this host on interfaces that have just lost their carrier.
    pub(super) fn lost(&mut self, io: &mut Io) -> Vec<IpAddr> {
        let mut lost = BTreeSet::new();
        let mut bytes = [0; BUFFER];
        // A flood of news is read in portions: the socket stays readable.
        for _ in 0..READS {
            let fd = self.socket.as_raw_fd();
            match recvfrom::<NetlinkAddr>(fd, &mut bytes) {
                Ok((len, from)) if from.is_none_or(|from| from.pid() == KERNEL) => {
                    for news in parse(&bytes[..len]) {
                        let known = self.without.contains(&news.index);
                        if news.carrier {
                            self.without.remove(&news.index);
                        } else if !known {
                            self.without.insert(news.index);
                            lost.insert(news.name);
                        }
                    }
                }
                // Another process of this host.
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::ENOBUFS) => {
                    io.counters.add("udp.carrier_news_lost", 1);
                    self.stale = true;
                }
                Err(_) => {
                    // Only now: the kernel answers one question at a time, and has none left.
                    self.stale = self.stale && self.ask().is_err();
                    break;
                }
            }
        }
        if lost.is_empty() {
            return Vec::new();
        }
        addresses(&lost)
    }
}

/// The addresses of interfaces.
fn addresses(names: &BTreeSet<String>) -> Vec<IpAddr> {
    // Without the list, hellos have to tell.
    let all = getifaddrs().into_iter().flatten();
    all.filter(|of| names.contains(&of.interface_name))
        .filter_map(|of| {
            let address = of.address?;
            let v4 = address.as_sockaddr_in().map(|a| a.ip().into());
            v4.or_else(|| address.as_sockaddr_in6().map(|a| a.ip().into()))
        })
        .collect()
}

/// `struct nlmsghdr` and `struct ifinfomsg` of a question for all interfaces.
fn question() -> [u8; HEADER + INFO] {
    let mut bytes = [0; HEADER + INFO];
    let len = (bytes.len() as u32).to_ne_bytes();
    bytes[..4].copy_from_slice(&len);
    bytes[4..6].copy_from_slice(&GET_LINK.to_ne_bytes());
    bytes[6..8].copy_from_slice(&ALL.to_ne_bytes());
    bytes
}

/// The messages of one datagram; what can't be read is left out.
fn parse(mut bytes: &[u8]) -> Vec<News> {
    let mut all = Vec::new();
    while let Some((len, kind)) = header(bytes) {
        let Some(message) = bytes.get(HEADER..len) else {
            break;
        };
        if kind == NEW_LINK {
            all.extend(link(message));
        }
        bytes = bytes.get(aligned(len)..).unwrap_or_default();
    }
    all
}

/// `struct nlmsghdr`: the length of the message with it, and its type.
fn header(bytes: &[u8]) -> Option<(usize, u16)> {
    let len = word(bytes, 0)? as usize;
    (len >= HEADER).then_some((len, half(bytes, 4)?))
}

/// `struct ifinfomsg`, and the attribute that names the interface.
fn link(message: &[u8]) -> Option<News> {
    let (index, flags) = (word(message, 4)?, word(message, 8)?);
    let mut attributes = message.get(INFO..)?;
    let name = loop {
        let (len, kind) = (usize::from(half(attributes, 0)?), half(attributes, 2)?);
        let value = attributes.get(4..len)?;
        if kind == NAME {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            break String::from_utf8_lossy(text).into_owned();
        }
        attributes = attributes.get(aligned(len)..)?;
    };
    Some(News {
        index,
        name,
        carrier: flags & UP != 0 && flags & LOWER_UP != 0,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_ne_bytes(bytes))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?.try_into().ok()?;
    Some(u16::from_ne_bytes(bytes))
}

fn aligned(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// RTMGRP_LINK.
const GROUP_LINK: u32 = 1;
/// The port of the kernel.
const KERNEL: u32 = 0;
/// RTM_NEWLINK, and the lengths of the two headers of such a message.
const NEW_LINK: u16 = 16;
const HEADER: usize = 16;
const INFO: usize = 16;
/// RTM_GETLINK, and NLM_F_REQUEST with NLM_F_DUMP.
const GET_LINK: u16 = 18;
const ALL: u16 = 0x301;
/// IFLA_IFNAME.
const NAME: u16 = 3;
/// IFF_UP and IFF_LOWER_UP.
const UP: u32 = 1;
const LOWER_UP: u32 = 1 << 16;
/// The most that the kernel says at once, and the portions that are read at once.
const BUFFER: usize = 32 << 10;
const READS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel says of an interface, as rtnetlink(7) has it.
    fn said(kind: u16, index: u32, flags: u32, name: &str) -> Vec<u8> {
        let mut body = vec![0; 4];
        body.extend(index.to_ne_bytes());
        body.extend(flags.to_ne_bytes());
        body.extend([0; 4]);
        // IFLA_MTU, which nobody here wants.
        body.extend([8u16.to_ne_bytes(), 4u16.to_ne_bytes()].concat());
        body.extend(1500u32.to_ne_bytes());
        let len = (4 + name.len() + 1) as u16;
        body.extend([len.to_ne_bytes(), NAME.to_ne_bytes()].concat());
        body.extend(name.bytes().chain([0]));
        body.resize(aligned(body.len()), 0);
        let mut message = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend([0; 10]);
        message.extend(body);
        message
    }

    #[test]
    fn the_kernels_words_on_carriers_are_read_one_after_the_other() {
        let bytes = [
            said(NEW_LINK, 3, UP, "veth0"),
            said(17, 9, 0, "gone"),
            said(NEW_LINK, 4, UP | LOWER_UP | 0x40, "e1"),
            said(NEW_LINK, 5, LOWER_UP, "off"),
        ]
        .concat();
        let news = |index, name: &str, carrier| News {
            index,
            name: name.to_owned(),
            carrier,
        };
        let all = [
            news(3, "veth0", false),
            news(4, "e1", true),
            news(5, "off", false),
        ];
        assert_eq!(parse(&bytes), all);
        for cut in 0..bytes.len() {
            assert!(all.starts_with(&parse(&bytes[..cut])), "cut at {cut}");
        }
        assert!(parse(&[0; 64]).is_empty(), "a length of nothing");
    }

    #[test]
    fn nothing_is_lost_while_nothing_happens_and_addresses_are_found_by_interface() {
        let mut io = Io::new().unwrap();
        let mut carrier = Carrier::new(&mut io).unwrap();
        let quiet = carrier.lost(&mut io);
        assert!(!quiet.contains(&IpAddr::from([127, 0, 0, 1])), "{quiet:?}");
        let lo = addresses(&BTreeSet::from(["lo".to_owned()]));
        assert!(lo.contains(&IpAddr::from([127, 0, 0, 1])), "{lo:?}");
    }

    #[test]
    fn how_things_stand_is_asked_at_the_start() {
        let mut io = Io::new().unwrap();
        let carrier = Carrier::new(&mut io).unwrap();
        let (mut bytes, mut all) = ([0; BUFFER], Vec::new());
        while let Ok((len, from)) = recvfrom::<NetlinkAddr>(carrier.socket.as_raw_fd(), &mut bytes)
        {
            assert_eq!(from.unwrap().pid(), KERNEL);
            all.extend(parse(&bytes[..len]));
        }
        let lo = all.iter().find(|news| news.name == "lo");
        assert!(lo.is_some_and(|lo| lo.index == 1), "{all:?}");
        assert_eq!(carrier.ask().ok(), Some(()), "as often as is wanted");
    }
}
