//! Flows to names: what a program links. It must not know addresses or IPC processes.
//!
//! It asks `irmd` for a name and gets a pipe of SDUs; a layer is no more to it than a word that the program may say.
//!
//! ```no_run
//! use libflow::{AllocOptions, Irm, QosSpec};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), libflow::FlowError> {
//! let irm = Irm::connect(None).await?; // finds irmd's run directory
//! let mut listener = irm.listen("greeter", &[]).await?; // a name for programs of this host
//! tokio::spawn(async move {
//!     while let Ok(incoming) = listener.accept().await {
//!         let flow = incoming.accept().await?;
//!         let mut name = vec![0; flow.mtu() as usize];
//!         let len = flow.read(&mut name).await?;
//!         flow.write(&[b"hello, ", &name[..len]].concat()).await?;
//!     }
//!     Ok::<_, libflow::FlowError>(())
//! });
//! let options = AllocOptions { qos: QosSpec::BEST, ..AllocOptions::default() };
//! let flow = irm.allocate("greeter", options).await?;
//! flow.write(b"world").await?;
//! let mut answer = [0; 100];
//! let len = flow.read(&mut answer).await?;
//! assert_eq!(&answer[..len], b"hello, world");
//! # Ok(())
//! # }
//! ```
//!
//! [`blocking`] is the same without a runtime; [`FlowSet`] waits on many flows at once; [`port`] is the socket below.

pub mod blocking;
mod end;
mod error;
mod flow;
mod listener;
pub mod port;
mod run_dir;
mod secret;
mod session;
mod set;
mod watch;

pub use error::FlowError;
pub use flow::Flow;
pub use listener::{Incoming, Listener};
pub use proto::record::Peer;
pub use proto::{Batch, Code, FlowId, Framing, Label, Name, QosSpec, Reason};
pub use run_dir::{ADMIN_SOCKET, IRM_SOCKET, RunDir};
pub use secret::Secret;
pub use session::{AllocOptions, Irm, Options};
pub use set::FlowSet;
pub use watch::watch;
