//! IP over flows. It must not know how flows are made, routed or sealed, nor believe a peer about who it is.
//!
//! Packets of a TUN device go to the flow of the member that owns their destination, frames of a TAP device to that of the member
//! whose address was heard; identity is what the layer authenticated.
//!
//! | module | holds |
//! |---|---|
//! | [`prefix`] | whose an address is |
//! | [`icmp`] | "too big" and "unreachable" for this host's own programs |
//! | [`fragment`] | IPv4 packets cut to a flow's MTU |
//! | [`session`] | the flows to one peer: when to dial, which to send on |
//! | [`switch`] | which Ethernet address is behind which member |
//! | [`pump`] | the data path: one task that owns the device and every flow |
//! | [`device`] | making the device |
//! | [`flow`] | what the pump needs of a flow, and handing the device over |
//! | [`config`], [`netlink`] | what irmd says, and what the kernel is told |
//! | [`filter`] | which packets may pass between this host and each member, with their answers |
//! | [`class`], [`traffic`] | classes of service, and what else can be switched |
//! | [`clash`] | what the VPN wants and the host has already |
//! | [`ways`], [`forwarding`] | which of the networks that members offer are taken, and whether this host forwards to its own |
//! | [`upkeep`] | when to look whether the kernel still has what it was given |
//! | [`names`] | names of members, as DNS has them |
//! | [`control`], [`links`] | the stream to irmd, and the flows that are made through it |
//! | [`strangers`] | flows of members that aren't known yet |
//! | [`run`] | the program |
//! | [`counters`] | what moved and what was dropped, with the reason |

pub mod clash;
pub mod class;
pub mod config;
pub mod control;
pub mod counters;
pub mod device;
pub mod filter;
pub mod flow;
pub mod forwarding;
pub mod fragment;
pub mod icmp;
pub mod links;
pub mod names;
pub mod netlink;
pub mod prefix;
pub mod pump;
pub mod run;
pub mod session;
pub mod strangers;
pub mod switch;
pub mod traffic;
pub mod upkeep;
pub mod ways;
