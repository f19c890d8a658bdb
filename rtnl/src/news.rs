//! The kernel's word that something of the host's network has changed. Words may be lost, which is said: who hears of it looks.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rtnetlink::packet_core::{
    Emitable, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NlasIterator,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkFlags, LinkHeader, LinkMessage};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{bind, recvfrom, sendto, socket_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What is to be heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// Devices come, go, and have a carrier or none.
    Links,
    /// Addresses of devices.
    Addresses,
    /// Routes, of any table.
    Routes,
    /// Which table a packet's route is looked for in.
    Rules,
}

/// A socket on which the kernel tells of some topics. It never waits.
#[derive(Debug)]
pub struct News(OwnedFd);

/// One look at [`News`].
#[derive(Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// Messages of the kernel.
    Said(&'a [u8]),
    /// Some were lost: they came faster than they were read.
    Lost,
    /// All was read.
    Nothing,
}

impl News {
    /// Listens from now on.
    pub fn of(topics: &[Topic]) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Without a protocol it is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        let groups = topics.iter().fold(0, |all, topic| all | topic.groups());
        bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self(socket))
    }

    /// Reads once, and as much as fits.
    pub fn hear<'a>(&self, bytes: &'a mut [u8]) -> Heard<'a> {
        match recvfrom(&self.0, &mut *bytes, RecvFlags::empty()) {
            Ok((len, _, from)) => {
                let from = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
                // Of another process of this host nothing is believed.
                let kernel = from.is_none_or(|from| from.pid() == KERNEL);
                Heard::Said(&bytes[..if kernel { len } else { 0 }])
            }
            Err(Errno::INTR) => Heard::Said(&[]),
            Err(Errno::NOBUFS) => Heard::Lost,
            Err(_) => Heard::Nothing,
        }
    }

    /// Asks for all links, which are told as news are. One question at a time: the next once [`Heard::Nothing`] is left.
    pub fn ask_links(&self) -> io::Result<()> {
        let ask = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let ask = bytes(ask, NLM_F_REQUEST | NLM_F_DUMP);
        let kernel = SocketAddrNetlink::new(KERNEL, 0);
        sendto(&self.0, &ask, SendFlags::empty(), &kernel)?;
        Ok(())
    }

    /// Reads what there is, up to a bound; says whether there was anything.
    fn drain(&self) -> bool {
        let mut bytes = [0; 512];
        let heard = (0..AT_ONCE).take_while(|_| self.hear(&mut bytes) != Heard::Nothing);
        heard.count() > 0
    }
}

impl AsFd for News {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for News {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// [`News`] for who only wants to know that there are some, and then looks: a word that was lost, or a flood, harms nobody.
#[derive(Debug)]
pub struct Watch(AsyncFd<News>);

impl Watch {
    /// Listens from now on. Must be called in a tokio runtime with IO.
    pub fn open(topics: &[Topic]) -> io::Result<Self> {
        Ok(Self(libflow::watch(News::of(topics)?, Interest::READABLE)?))
    }

    /// Waits for a change. Safe to cancel.
    pub async fn changed(&self) {
        loop {
            match self.0.readable().await {
                Ok(mut guard) => {
                    if guard.get_inner().drain() {
                        return;
                    }
                    guard.clear_ready();
                }
                // Only at the end of the runtime.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Forgets the changes up to now: who calls this is about to look.
    pub fn forget(&self) {
        self.0.get_ref().drain();
    }
}

impl Topic {
    /// `RTNLGRP_*` of `linux/rtnetlink.h`, for IPv4 and IPv6.
    fn groups(self) -> u32 {
        let group = |number: u32| 1 << (number - 1);
        match self {
            Self::Links => group(1),
            Self::Addresses => group(5) | group(9),
            Self::Routes => group(7) | group(11),
            Self::Rules => group(8) | group(19),
        }
    }
}

fn bytes(message: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// What the kernel says of one link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The number of the device.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// It is up, and so is what is at its other end.
    pub carrier: bool,
}

/// The links that are told of in what was [`Heard`]; what can't be read is left out.
pub fn links(mut bytes: &[u8]) -> Vec<Link> {
    let mut all = Vec::new();
    while let Ok(message) = NetlinkBuffer::new_checked(bytes) {
        if message.message_type() == NEW_LINK {
            all.extend(Link::read(message.payload()));
        }
        let next = message.length().next_multiple_of(4) as usize;
        bytes = bytes.get(next..).unwrap_or_default();
    }
    all
}

impl Link {
    /// Only what is wanted: as a `LinkMessage` all would be lost by one attribute that is not understood.
    fn read(message: &[u8]) -> Option<Self> {
        let header = LinkHeader::parse(message).ok()?;
        let attributes = NlasIterator::new(message.get(header.buffer_len()..)?);
        let name = attributes.flatten().find(|a| a.kind() == NAME)?;
        let text = name.value();
        let text = text.strip_suffix(&[0]).unwrap_or(text);
        Some(Self {
            index: header.index,
            name: String::from_utf8_lossy(text).into_owned(),
            carrier: header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        })
    }
}

/// Words that are read before others have their turn.
const AT_ONCE: usize = 64;
/// The port of the kernel.
const KERNEL: u32 = 0;
/// RTM_NEWLINK.
const NEW_LINK: u16 = 16;
/// IFLA_IFNAME.
const NAME: u16 = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_core::DefaultNla;
    use rtnetlink::packet_route::link::LinkAttribute;

    /// What the kernel says of a link, with attributes that nobody here wants, and one that nobody knows.
    fn said(kind: u16, index: u32, flags: LinkFlags, name: &str) -> Vec<u8> {
        let mut link = LinkMessage::default();
        (link.header.index, link.header.flags) = (index, flags);
        link.attributes = vec![
            LinkAttribute::Other(DefaultNla::new(999, vec![1; 5])),
            LinkAttribute::Mtu(1500),
            LinkAttribute::IfName(name.to_owned()),
        ];
        let mut bytes = bytes(RouteNetlinkMessage::NewLink(link), 0);
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes
    }

    #[test]
    fn the_kernels_words_on_carriers_are_read_one_after_the_other() {
        let (up, carrier) = (LinkFlags::Up, LinkFlags::LowerUp);
        let bytes = [
            said(NEW_LINK, 3, up, "veth0"),
            said(17, 9, LinkFlags::empty(), "gone"),
            said(NEW_LINK, 4, up | carrier | LinkFlags::Running, "e1"),
            said(NEW_LINK, 5, carrier, "off"),
        ]
        .concat();
        let link = |index, name: &str, carrier| Link {
            index,
            name: name.to_owned(),
            carrier,
        };
        let all = [
            link(3, "veth0", false),
            link(4, "e1", true),
            link(5, "off", false),
        ];
        assert_eq!(links(&bytes), all);
        for cut in 0..bytes.len() {
            assert!(all.starts_with(&links(&bytes[..cut])), "cut at {cut}");
        }
        assert!(links(&[0; 64]).is_empty(), "a length of nothing");
    }

    #[test]
    fn how_links_stand_is_told_as_often_as_is_asked() {
        let news = News::of(&[Topic::Links]).unwrap();
        for _ in 0..2 {
            news.ask_links().unwrap();
            let (mut bytes, mut all) = ([0; 32 << 10], Vec::new());
            while let Heard::Said(said) = news.hear(&mut bytes) {
                all.extend(links(said));
            }
            let lo = all.iter().find(|link| link.name == "lo");
            assert!(lo.is_some_and(|lo| lo.index == 1), "{all:?}");
        }
    }
}
