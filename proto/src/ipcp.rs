//! What irmd asks of an IPC process, and what that answers: the domain types behind the `Attach` stream.
//!
//! [`crate::irm::IpcpCommand`] and [`crate::irm::IpcpEvent`] are parsed into these once, at the border (see `convert`).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use crate::id::{FlowId, Label, Name, Token};
use crate::qos::QosSpec;
use crate::reason::Reason;
use crate::record::Peer;

/// Names a command; its answer carries the same number.
pub type CommandId = u64;
/// Names a flow request that an IPCP reported, until irmd responds to it.
pub type RequestId = u64;

/// What irmd asks.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Make or serve a layer as its first member.
    Bootstrap(Bootstrap),
    /// Join a layer.
    Enroll(Enroll),
    /// Change settings while running.
    Set(Settings),
    /// Offer flows to this name.
    Register(Name),
    /// No longer offer flows to this name.
    Unregister(Name),
    /// Allocate a flow; answered by [`Answer::Allocated`] when it stands.
    Allocate(Allocate),
    /// Accept or refuse the flow request.
    Respond(Respond),
    /// End the flow.
    Dealloc(FlowId, Reason),
    /// Keep an adjacency to this member; answered when it stands, or at the latest after so long (`None`: as the layer sees
    /// fit).
    Connect(Label, Option<Duration>),
    /// Give the adjacency up.
    Disconnect(Label),
    /// Make an invitation; answered by [`Answer::Invitation`].
    Invite(Invite),
    /// Do what only the holder of the layer's authority can.
    Authority(AuthorityAct),
    /// Show the policy, and what it says of something; answered by [`Answer::Policy`].
    Policy(crate::irm::PolicyCheck),
    /// Offer these networks to the layer, and no others.
    Offer(Vec<IpNet>),
    /// Say how you are; answered by [`Answer::Status`].
    Status,
    /// End all flows in good order, then exit.
    Shutdown,
}

/// Parameters of `bootstrap`.
#[derive(Debug, Clone, PartialEq)]
pub struct Bootstrap {
    /// The layer.
    pub layer: Label,
    /// Unicast: the lower layers.
    pub over: Vec<Label>,
    /// Unicast: prefixes of this first member.
    pub prefixes: Vec<IpNet>,
    /// Unicast: where members that are let in without a prefix get addresses from; `None`: from networks that follow from the
    /// root's key.
    pub pools: Option<Vec<IpNet>>,
    /// Unicast: how long the certificate of a member lives; `None`: 90 days.
    pub cert_life: Option<Duration>,
    /// Unicast: the root's key lies on disk under this passphrase only, from the beginning; `None`: as it is.
    pub passphrase: Option<Vec<u8>>,
    /// The shim's own part.
    pub shim_udp: Option<ShimUdp>,
}

/// Parameters of a UDP shim.
#[derive(Debug, Clone, PartialEq)]
pub struct ShimUdp {
    /// The address that it binds.
    pub ip: Place,
    /// The port that requests come to.
    pub port: u16,
    /// Names whose host is known.
    pub hosts: Vec<Host>,
    /// Where to look other names up.
    pub dns: Option<Dns>,
    /// The ports that flows may use, both ends included; `None`: the system's choice.
    pub flow_ports: Option<(u16, u16)>,
    /// Offload switches.
    pub offload: Vec<Offload>,
}

/// Where on its host a shim is: at an address, or wherever an interface is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// At this address of the host, which is a specific one.
    At(IpAddr),
    /// At the address of this family that the interface has, whichever it is at the time: `dev:NAME`, `dev6:NAME`.
    Of(Family, String),
    /// The same of the interface that the default route goes by: `auto`, `auto6`.
    Auto(Family),
}

/// Of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Place {
    /// The address, where it never changes.
    pub fn fixed(&self) -> Option<IpAddr> {
        match self {
            Self::At(ip) => Some(*ip),
            Self::Of(..) | Self::Auto(_) => None,
        }
    }
}

impl From<IpAddr> for Place {
    fn from(ip: IpAddr) -> Self {
        Self::At(ip)
    }
}

impl ShimUdp {
    /// The port that requests come to unless another is set: 0x0D1F, that of the Ouroboros shim.
    pub const PORT: u16 = 3359;
}

/// `NAME=ADDR[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// The name.
    pub name: Name,
    /// Its shim's address; the port is [`ShimUdp::PORT`] where none was given.
    pub at: SocketAddr,
}

/// Where a member is below: the lower layer, and the address of its shim there. `LAYER=ADDR[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reach {
    /// The lower layer, by the name that all its hosts give it.
    pub over: Label,
    /// Its shim's address; the port is [`ShimUdp::PORT`] where none was given.
    pub at: SocketAddr,
}

/// Where a shim looks names up that are not in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dns {
    /// As the system is set up.
    System,
    /// At this server.
    Server(SocketAddr),
}

/// One switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offload {
    /// Which.
    pub kind: OffloadKind,
    /// How.
    pub mode: OffloadMode,
}

/// A switch of a shim below, which holds for the sockets that it has handed over. `LAYER=KIND=MODE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Below {
    /// The layer of the shim.
    pub over: Label,
    /// Its switch.
    pub offload: Offload,
}

/// What can be offloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffloadKind {
    /// Sending trains.
    Gso,
    /// Receiving trains.
    Gro,
    /// Sealing on more cores than the one that sends.
    Seal,
}

/// How a switch stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OffloadMode {
    /// Used until it causes an error.
    #[default]
    Auto,
    /// Used, come what may.
    On,
    /// Not used.
    Off,
}

impl OffloadMode {
    /// What holds where two have a say: off by either, else on by either.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Off, _) | (_, Self::Off) => Self::Off,
            (Self::On, _) | (_, Self::On) => Self::On,
            (Self::Auto, Self::Auto) => Self::Auto,
        }
    }
}

/// Parameters of `enroll`.
#[derive(Debug, Clone, PartialEq)]
pub struct Enroll {
    /// How to get in.
    pub entry: Entry,
    /// The lower layers.
    pub over: Vec<Label>,
    /// How long to try, in milliseconds.
    pub timeout_ms: u64,
}

/// How a member gets into a layer.
#[derive(Clone, PartialEq)]
pub enum Entry {
    /// With an invitation (a URL).
    Invitation(String),
    /// With a certificate of the site's own PKI, by way of a member. PEM or DER.
    Certificate {
        /// The layer.
        layer: Label,
        /// The member to dial.
        dst: Label,
        /// Root certificates.
        ca: Vec<u8>,
        /// This member's chain.
        cert: Vec<u8>,
        /// Its private key.
        key: Vec<u8>,
    },
    /// With the certificate that it has from before.
    Rejoin,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            // An invitation holds a secret, a key is one.
            Self::Invitation(_) => f.write_str("Invitation(..)"),
            Self::Certificate { layer, dst, .. } => write!(f, "Certificate({layer}, {dst})"),
            Self::Rejoin => f.write_str("Rejoin"),
        }
    }
}

/// Parameters of `set`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// Shim: hosts to add or change.
    pub hosts: Vec<Host>,
    /// Switches to change.
    pub offload: Vec<Offload>,
    /// Unicast: the lower layers from now on; empty: as before.
    pub over: Vec<Label>,
    /// Unicast: what each link carries, in Mbit/s; 0: as before.
    pub rate_mbit: u32,
    /// Shim: the address that it binds from now on; none: as before.
    pub ip: Option<Place>,
    /// Unicast: which congestion control flows have from now on; `None`: as before.
    pub congestion: Option<Congestion>,
    /// Unicast: where this member is in the layers below, for members that have flows with it; `None`: as before.
    pub reach: Option<Vec<Reach>>,
    /// Unicast: the switches of the shims below, all of them; `None`: as before.
    pub below: Option<Vec<Below>>,
}

/// The congestion control of a flow, at the end that sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Congestion {
    /// RFC 9438: fair to others of its kind, slows down at each loss.
    #[default]
    Cubic,
    /// After BBR: for paths that lose packets without being congested.
    Bbr,
}

/// Parameters of `allocate`.
#[derive(Debug, Clone, PartialEq)]
pub struct Allocate {
    /// The flow's id, given by irmd.
    pub flow: FlowId,
    /// To whom.
    pub name: Name,
    /// From whom, attested by irmd.
    pub source: Option<Name>,
    /// What is asked.
    pub qos: QosSpec,
    /// Refuse any other member.
    pub peer: Option<Label>,
    /// The user who may join it.
    pub user: User,
    /// How long the caller waits, in milliseconds.
    pub timeout_ms: u64,
    /// Shim: where the name's host may be, if its own table doesn't say.
    pub at: Vec<SocketAddr>,
}

/// Who may join the data socket of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// By uid.
    pub uid: u32,
    /// An IPC process: a shim hands its socket over to it.
    pub ipcp: bool,
}

/// irmd's answer to a [`Event::FlowRequest`].
#[derive(Debug, Clone, PartialEq)]
pub struct Respond {
    /// Which request.
    pub request: RequestId,
    /// The flow's id and user if it is accepted, else why not.
    pub verdict: Result<(FlowId, User), Reason>,
}

/// Parameters of `invite`.
#[derive(Debug, Clone, PartialEq)]
pub struct Invite {
    /// The member name that is granted; `None`: the joiner's choice.
    pub member: Option<Label>,
    /// The prefixes that are granted.
    pub prefixes: Vec<IpNet>,
    /// For how long it can be used, in milliseconds.
    pub expires_ms: u64,
    /// How often.
    pub uses: u32,
    /// Where this member's shims are, for a joiner that knows nothing.
    pub hints: Vec<Host>,
    /// The groups that stand in the certificate.
    pub groups: Vec<Label>,
}

/// What only the holder of a layer's authority can do.
#[derive(Clone, PartialEq)]
pub enum AuthorityAct {
    /// Believe this member no more; its name is free again.
    Revoke(Label),
    /// Let this member issue certificates too, with these prefixes at most; none: any.
    Delegate(Label, Vec<IpNet>),
    /// Let it issue no longer; what it has issued counts until it ends.
    Undelegate(Label),
    /// This policy holds from now on; empty: none does.
    Policy(String),
    /// Give the authority out, sealed under this passphrase; answered by [`Answer::Exported`].
    Export(Vec<u8>),
    /// Take over what was exported.
    Import {
        /// As it was given out.
        file: Vec<u8>,
        /// Under which it was sealed.
        passphrase: Vec<u8>,
        /// Whether it is kept under that here too.
        sealed: bool,
    },
    /// Change the root of the layer.
    Rollover(Rollover),
    /// Keep the root's key on disk under this passphrase; `None`: as it is.
    Seal(Option<Vec<u8>>),
    /// Take the root's key into use that is kept under this passphrase.
    Unlock(Vec<u8>),
    /// Forget it until it is unlocked again.
    Lock,
}

/// What to do about the root of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rollover {
    /// Make another one, and believe both, at the longest for so long; `None`: until it is finished.
    Begin(Option<Duration>),
    /// Believe the one before no longer; with `force` though members would be out.
    Finish {
        /// Whatever becomes of members that haven't renewed.
        force: bool,
    },
}

impl std::fmt::Debug for AuthorityAct {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Revoke(member) => write!(f, "Revoke({member})"),
            Self::Delegate(member, _) => write!(f, "Delegate({member})"),
            Self::Undelegate(member) => write!(f, "Undelegate({member})"),
            Self::Policy(text) => write!(f, "Policy({text:?})"),
            // A passphrase is a secret.
            Self::Export(_) => f.write_str("Export(..)"),
            Self::Import { .. } => f.write_str("Import(..)"),
            Self::Rollover(rollover) => write!(f, "Rollover({rollover:?})"),
            Self::Seal(_) => f.write_str("Seal(..)"),
            Self::Unlock(_) => f.write_str("Unlock(..)"),
            Self::Lock => f.write_str("Lock"),
        }
    }
}

/// What an IPC process says.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The answer to a command.
    Done(CommandId, Result<Answer, Reason>),
    /// Somebody wants a flow to a name that is registered here.
    FlowRequest(FlowRequest),
    /// A flow went down.
    FlowDown(FlowId, Reason),
    /// The process is in another state.
    State(State, String),
    /// Something that a person may want to know.
    Notice(Notice),
    /// What the status says of the layer's members has changed; said once after each status, to who wants to ask again.
    Members,
}

/// The answer to a command that was carried out.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// To all that have nothing to say.
    Ok,
    /// To `allocate` and `respond`: the flow stands and can be joined.
    Allocated(Allocated),
    /// To `status`.
    Status(Box<crate::irm::IpcpStatus>),
    /// To `invite`.
    Invitation(String),
    /// To [`AuthorityAct::Export`].
    Exported(Vec<u8>),
    /// To `bootstrap` and `enroll`.
    Configured(Configured),
    /// To `policy`.
    Policy(crate::irm::PolicyReply),
}

/// A flow that stands. The machine says all but the token, which the runtime makes.
#[derive(Debug, Clone, PartialEq)]
pub struct Allocated {
    /// The largest SDU in bytes.
    pub mtu: u32,
    /// What was granted.
    pub qos: QosSpec,
    /// The other end.
    pub peer: Peer,
    /// What the joiner must show.
    pub token: Option<Token>,
}

/// Who an IPCP is after bootstrap or enrolment.
#[derive(Debug, Clone, PartialEq)]
pub struct Configured {
    /// Its layer.
    pub layer: Label,
    /// Its member name; a shim has none.
    pub member: Option<Label>,
    /// The prefixes of its certificate.
    pub prefixes: Vec<IpNet>,
    /// Its address; 0: none.
    pub address: u64,
}

/// A flow request from afar.
#[derive(Debug, Clone, PartialEq)]
pub struct FlowRequest {
    /// To be named in [`Respond`].
    pub request: RequestId,
    /// The name that is wanted.
    pub name: Name,
    /// Who wants it.
    pub peer: Peer,
    /// What it asks.
    pub qos: QosSpec,
    /// The largest SDU in bytes.
    pub mtu: u32,
    /// How long it waits, in milliseconds.
    pub timeout_ms: u64,
}

/// The state of an IPC process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum State {
    /// Created, or something it needs (its address) isn't there yet; it tries again.
    #[default]
    Waiting,
    /// Joining its layer.
    Enrolling,
    /// A member.
    Up,
    /// It gave up, with a reason.
    Down,
}

impl State {
    /// The word of the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Enrolling => "enrolling",
            Self::Up => "up",
            Self::Down => "down",
        }
    }

    /// Reads the word of the command line.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Waiting, Self::Enrolling, Self::Up, Self::Down]
            .into_iter()
            .find(|s| s.word() == word)
    }
}

/// Something that a person may want to know.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    /// A stable word, as `neighbour.down`.
    pub kind: String,
    /// One line.
    pub text: String,
    /// Details by key.
    pub fields: Vec<(String, String)>,
    /// Stays visible in `irm status` until another of this kind without it.
    pub warning: bool,
}
