//! What a shim sees of irmd: the service that it attaches to.

use std::collections::VecDeque;
use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::process::{Child, Command as Program, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use libflow::port::{Joined, RecordSocket};
use proto::ipcp::{
    Allocate, Allocated, Answer, Bootstrap, Command, Event, FlowRequest, Respond, ShimUdp, User,
};
use proto::irm as pb;
use proto::irm::ipcps_server::{Ipcps, IpcpsServer};
use proto::{FlowId, Label, Name, QosSpec, Reason};
use rustix::process::{Pid, Signal};
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

type Commands = mpsc::Sender<Result<pb::IpcpCommand, Status>>;

/// An attached stream: who it is, how to command it, what it says.
type Attached = (pb::IpcpHello, Commands, Streaming<pb::IpcpEvent>);

/// The daemon's side, in a directory of its own.
pub(crate) struct Irmd {
    dir: tempfile::TempDir,
    attached: Arc<tokio::sync::Mutex<mpsc::Receiver<Attached>>>,
    waiting: Mutex<Vec<Attached>>,
}

/// One shim process.
pub(crate) struct Shim {
    child: Child,
    hello: pb::IpcpHello,
    commands: Commands,
    events: Streaming<pb::IpcpEvent>,
    kept: VecDeque<Event>,
    last_id: u64,
    at: Option<SocketAddr>,
}

struct Service(mpsc::Sender<Attached>);

#[tonic::async_trait]
impl Ipcps for Service {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<pb::IpcpCommand, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<pb::IpcpEvent>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut events = request.into_inner();
        let Some(pb::IpcpEvent {
            event: Some(pb::ipcp_event::Event::Hello(hello)),
        }) = events.message().await?
        else {
            return Err(Status::invalid_argument("no hello"));
        };
        let (commands, out) = mpsc::channel(64);
        let welcome = pb::ipcp_command::Command::Welcome(pb::AttachWelcome::default());
        commands
            .send(Ok(pb::IpcpCommand {
                id: 0,
                command: Some(welcome),
            }))
            .await
            .unwrap();
        self.0.send((hello, commands, events)).await.unwrap();
        Ok(Response::new(Box::pin(ReceiverStream::new(out))))
    }
}

impl Irmd {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("ipcps")).unwrap();
        let listener = UnixListener::bind(dir.path().join("irm.sock")).unwrap();
        let (attached_tx, attached) = mpsc::channel(8);
        let server =
            tonic::transport::Server::builder().add_service(IpcpsServer::new(Service(attached_tx)));
        tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
        Self {
            dir,
            attached: Arc::new(tokio::sync::Mutex::new(attached)),
            waiting: Mutex::new(Vec::new()),
        }
    }

    /// Starts a shim and waits until it is attached.
    #[expect(clippy::zombie_processes, reason = "the drop of Shim waits for it")]
    pub(crate) async fn start(&self, name: &str) -> Shim {
        let state = self.dir.path().join(format!("state-{name}"));
        std::fs::create_dir(&state).unwrap();
        let mut child = Program::new(env!("CARGO_BIN_EXE_shim-udp"))
            .args(["--name", name, "--run-dir"])
            .arg(self.dir.path())
            .arg("--state-dir")
            .arg(state)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&[7; 32]).unwrap();
        let find = || {
            let mut waiting = self.waiting.lock().unwrap();
            let at = waiting.iter().position(|(hello, ..)| hello.name == name)?;
            Some(waiting.remove(at))
        };
        loop {
            if let Some((hello, commands, events)) = find() {
                assert_eq!(
                    (hello.secret.as_slice(), hello.r#type.as_str()),
                    (&[7; 32][..], "shim-udp")
                );
                return Shim {
                    child,
                    hello,
                    commands,
                    events,
                    kept: VecDeque::new(),
                    last_id: 0,
                    at: None,
                };
            }
            let next = tokio::time::timeout(Duration::from_secs(10), async {
                self.attached.lock().await.recv().await
            });
            let next = next.await.expect("the shim attaches").unwrap();
            self.waiting.lock().unwrap().push(next);
        }
    }
}

impl Shim {
    /// Bootstraps it on a free port.
    pub(crate) async fn bootstrap(&mut self, ip: &str, hosts: &[String]) -> SocketAddr {
        let at = UdpSocket::bind((ip, 0)).unwrap().local_addr().unwrap();
        self.at = Some(at);
        let hosts = hosts.iter().map(|h| h.parse().unwrap()).collect();
        let shim_udp = ShimUdp {
            ip: at.ip().into(),
            port: at.port(),
            hosts,
            dns: None,
            flow_ports: None,
            offload: vec![],
        };
        let layer = Label::new("net").unwrap();
        let bootstrap = Bootstrap {
            layer,
            over: vec![],
            prefixes: vec![],
            pools: Some(Vec::new()),
            cert_life: None,
            passphrase: None,
            shim_udp: Some(shim_udp),
        };
        assert!(self.ask(Command::Bootstrap(bootstrap)).await.is_ok());
        at
    }

    pub(crate) async fn allocate(
        &mut self,
        flow: u64,
        to: &str,
        ipcp: bool,
    ) -> Result<Allocated, Reason> {
        let (flow, name, user) = (FlowId(flow), Name::new(to).unwrap(), user(ipcp));
        let allocate = Allocate {
            flow,
            name,
            source: None,
            qos: QosSpec::RAW,
            peer: None,
            user,
            timeout_ms: 5000,
            at: Vec::new(),
        };
        self.flow(Command::Allocate(allocate)).await
    }

    pub(crate) async fn accept(
        &mut self,
        request: u64,
        flow: u64,
        ipcp: bool,
    ) -> Result<Allocated, Reason> {
        let verdict = Ok((FlowId(flow), user(ipcp)));
        self.flow(Command::Respond(Respond { request, verdict }))
            .await
    }

    pub(crate) async fn join(&self, allocated: &Allocated) -> Joined {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        let path = std::path::Path::new(&self.hello.data_socket);
        RecordSocket::join(path, allocated.token.as_ref().unwrap(), true, deadline)
            .await
            .unwrap()
    }

    /// Gives a command and waits for its answer.
    pub(crate) async fn ask(&mut self, command: Command) -> Result<Answer, Reason> {
        self.last_id += 1;
        let id = self.last_id;
        self.commands
            .send(Ok(command.into_message(id)))
            .await
            .unwrap();
        self.find(|event| match event {
            Event::Done(done, answer) if *done == id => Some(answer.clone()),
            _ => None,
        })
        .await
    }

    /// The next flow request.
    pub(crate) async fn request(&mut self) -> FlowRequest {
        self.find(|event| {
            if let Event::FlowRequest(r) = event {
                Some(r.clone())
            } else {
                None
            }
        })
        .await
    }

    /// The next flow that went down.
    pub(crate) async fn down(&mut self) -> (FlowId, Reason) {
        self.find(|event| {
            if let Event::FlowDown(f, r) = event {
                Some((*f, r.clone()))
            } else {
                None
            }
        })
        .await
    }

    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Where its requests go.
    pub(crate) fn at(&self) -> SocketAddr {
        self.at.unwrap()
    }

    /// What of it is in memory.
    pub(crate) fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// How many descriptors the process has open.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .unwrap()
            .count()
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        for _ in 0..500 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the shim does not end");
    }

    async fn flow(&mut self, command: Command) -> Result<Allocated, Reason> {
        match self.ask(command).await? {
            Answer::Allocated(allocated) => Ok(allocated),
            other => panic!("{other:?}"),
        }
    }

    /// The first event that fits; others are kept.
    async fn find<T>(&mut self, fits: impl Fn(&Event) -> Option<T>) -> T {
        if let Some((at, found)) = self
            .kept
            .iter()
            .enumerate()
            .find_map(|(at, e)| Some((at, fits(e)?)))
        {
            self.kept.remove(at);
            return found;
        }
        loop {
            let next = tokio::time::timeout(Duration::from_secs(30), self.events.next()).await;
            let event = Event::from_message(next.expect("something is said").unwrap().unwrap())
                .unwrap()
                .unwrap();
            match fits(&event) {
                Some(found) => return found,
                None => self.kept.push_back(event),
            }
        }
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        // Ended already, or ended by this.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn user(ipcp: bool) -> User {
    User {
        uid: rustix::process::geteuid().as_raw(),
        ipcp,
    }
}
