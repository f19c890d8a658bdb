//! Which of this host's interfaces have lost their carrier, as the kernel tells it (rtnetlink(7)): a cable was pulled, or the
//! other end of it was switched off. Sending fails in neither case. It must not know flows.
//!
//! How things stand is asked once at the start, and again whenever news were lost.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use rtnl::{Heard, News, Topic};

use crate::io::{Interest, Io, Key, Watch};

/// The kernel's news of interfaces.
#[derive(Debug)]
pub(super) struct Carrier {
    news: News,
    watch: Watch,
    /// The interfaces that have none.
    without: BTreeSet<u32>,
    /// News were lost, and nothing was asked since.
    stale: bool,
}

impl Carrier {
    /// Listens from now on, and asks how things stand.
    pub(super) fn new(io: &mut Io) -> io::Result<Self> {
        let news = News::of(&[Topic::Links])?;
        let watch = io.watch(&news, Interest::READ)?;
        news.ask_links()?;
        Ok(Self {
            news,
            watch,
            without: BTreeSet::new(),
            stale: false,
        })
    }

    pub(super) fn key(&self) -> Key {
        self.watch.key()
    }

    /// Reads what there is: the addresses of this host on interfaces that have just lost their carrier.
    pub(super) fn lost(&mut self, io: &mut Io) -> Vec<IpAddr> {
        let mut lost = BTreeSet::new();
        let mut bytes = [0; BUFFER];
        // A flood of news is read in portions: the socket stays readable.
        for _ in 0..READS {
            match self.news.hear(&mut bytes) {
                Heard::Said(said) => {
                    for link in rtnl::links(said) {
                        if link.carrier {
                            self.without.remove(&link.index);
                        } else if self.without.insert(link.index) {
                            lost.insert(link.name);
                        }
                    }
                }
                Heard::Lost => {
                    io.counters.add("udp.carrier_news_lost", 1);
                    self.stale = true;
                }
                Heard::Nothing => {
                    // Only now: the kernel answers one question at a time, and has none left.
                    self.stale = self.stale && self.news.ask_links().is_err();
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

/// The most that the kernel says at once, and the portions that are read at once.
const BUFFER: usize = 32 << 10;
const READS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_while_nothing_happens_and_addresses_are_found_by_interface() {
        let mut io = Io::new().unwrap();
        let mut carrier = Carrier::new(&mut io).unwrap();
        let quiet = carrier.lost(&mut io);
        assert!(!quiet.contains(&IpAddr::from([127, 0, 0, 1])), "{quiet:?}");
        let lo = addresses(&BTreeSet::from(["lo".to_owned()]));
        assert!(lo.contains(&IpAddr::from([127, 0, 0, 1])), "{lo:?}");
    }
}
