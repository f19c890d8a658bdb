//! As much of an irmd as a VPN talks to: it hands every stream and request to the test.

use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use libflow::port::{Door, RecordSocket};
use proto::irm::programs_server::{Programs, ProgramsServer};
use proto::irm::vpns_server::{Vpns, VpnsServer};
use proto::irm::{
    AllocFlowRequest, FlowEnd, Listening, ProgramCommand, ProgramEvent, ProgramWelcome, VpnCommand,
    VpnEvent, VpnHello, VpnInfo, program_command, program_event, vpn_command, vpn_event,
};
use proto::record::{Item, Peer, Welcome};
use proto::{FlowId, QosSpec, Reason};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::Stream;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::support::{Far, soon};

/// The stand-in.
pub(crate) struct Irmd {
    attached: mpsc::Receiver<Attached>,
    pub(crate) sessions: mpsc::Receiver<Session>,
    pub(crate) requests:
        mpsc::Receiver<(AllocFlowRequest, oneshot::Sender<Result<FlowEnd, Status>>)>,
    /// With a runtime of its own, since only the end of that ends what a server has spawned.
    thread: Option<(oneshot::Sender<()>, std::thread::JoinHandle<()>)>,
}

/// A VPN's stream.
pub(crate) struct Attached {
    pub(crate) hello: VpnHello,
    events: Streaming<VpnEvent>,
    commands: mpsc::Sender<Result<VpnCommand, Status>>,
}

/// A program's session, after it has begun to listen.
pub(crate) struct Session {
    pub(crate) name: String,
    pub(crate) layers: Vec<String>,
    pub(crate) listener: u64,
    pub(crate) events: Streaming<ProgramEvent>,
    pub(crate) commands: mpsc::Sender<Result<ProgramCommand, Status>>,
}

impl Irmd {
    pub(crate) fn start(run_dir: &Path) -> Self {
        let path = run_dir.join(libflow::IRM_SOCKET);
        let _ = std::fs::remove_file(&path);
        let (attached_in, attached) = mpsc::channel(4);
        let (sessions_in, sessions) = mpsc::channel(4);
        let (requests_in, requests) = mpsc::channel(4);
        let (stop, stopped) = oneshot::channel();
        let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let serve = async move {
            let listener = UnixListenerStream::new(UnixListener::from_std(listener).unwrap());
            let server = Server::builder()
                .add_service(VpnsServer::new(VpnDoor(attached_in)))
                .add_service(ProgramsServer::new(ProgramDoor(sessions_in, requests_in)))
                .serve_with_incoming(listener);
            tokio::select! {
                ended = server => ended.unwrap(),
                _ = stopped => {}
            }
        };
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(serve);
        });
        Self {
            attached,
            sessions,
            requests,
            thread: Some((stop, thread)),
        }
    }

    pub(crate) async fn attached(&mut self) -> Attached {
        soon(self.attached.recv()).await.unwrap()
    }

    /// Answers the next request for a flow; gives what was asked and the far end.
    pub(crate) async fn grant(&mut self, door: &Door, mtu: u32) -> (AllocFlowRequest, Far) {
        let (asked, answer) = soon(self.requests.recv()).await.unwrap();
        answer.send(Ok(end(door))).unwrap();
        (asked, welcome(door, mtu).await)
    }
}

impl Drop for Irmd {
    /// As when it is killed.
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.thread.take() {
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

impl Attached {
    pub(crate) async fn order(&self, command: vpn_command::Command) {
        self.commands
            .send(Ok(VpnCommand {
                command: Some(command),
            }))
            .await
            .unwrap();
    }

    /// The next info that is as wanted.
    pub(crate) async fn info(&mut self, wanted: impl Fn(&VpnInfo) -> bool) -> VpnInfo {
        soon(async {
            loop {
                match self.events.message().await.unwrap().unwrap().event.unwrap() {
                    vpn_event::Event::Info(info) if wanted(&info) => return info,
                    vpn_event::Event::Failed(failure) => panic!("failed: {}", failure.text),
                    vpn_event::Event::Info(_) | vpn_event::Event::Hello(_) => {}
                }
            }
        })
        .await
    }

    /// Asks until it is as wanted.
    pub(crate) async fn asked(&mut self, wanted: impl Fn(&VpnInfo) -> bool) -> VpnInfo {
        loop {
            let ask = vpn_command::Command::Status(proto::irm::StatusWanted {});
            self.order(ask).await;
            let info = self.info(|_| true).await;
            if wanted(&info) {
                return info;
            }
        }
    }

    pub(crate) async fn failure(&mut self) -> Reason {
        soon(async {
            loop {
                if let vpn_event::Event::Failed(failure) =
                    self.events.message().await.unwrap().unwrap().event.unwrap()
                {
                    return failure.into();
                }
            }
        })
        .await
    }
}

/// What opens the data socket.
pub(crate) fn end(door: &Door) -> FlowEnd {
    FlowEnd {
        flow: 7,
        socket: door.path().to_string_lossy().into_owned(),
        token: vec![7; 16],
    }
}

/// Welcomes the next who joins.
pub(crate) async fn welcome(door: &Door, mtu: u32) -> Far {
    soon(async {
        loop {
            match door.try_accept() {
                Ok((socket, _)) => return welcomed(socket, mtu).await,
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    })
    .await
}

async fn welcomed(socket: RecordSocket, mtu: u32) -> Far {
    while socket.try_recv_first().is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let welcome = Welcome {
        devices: false,
        flow: FlowId(7),
        mtu,
        qos: QosSpec::RAW,
        peer: Peer::default(),
    };
    socket.try_send_item(&Item::Welcome(welcome), None).unwrap();
    Far(socket)
}

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

struct VpnDoor(mpsc::Sender<Attached>);

#[tonic::async_trait]
impl Vpns for VpnDoor {
    type ServeStream = Replies<VpnCommand>;

    async fn serve(
        &self,
        request: Request<Streaming<VpnEvent>>,
    ) -> Result<Response<Self::ServeStream>, Status> {
        let mut events = request.into_inner();
        let Some(vpn_event::Event::Hello(hello)) = events.message().await?.and_then(|m| m.event)
        else {
            return Err(Status::invalid_argument("no hello"));
        };
        let (commands, replies) = mpsc::channel(4);
        let _ = self
            .0
            .send(Attached {
                hello,
                events,
                commands,
            })
            .await;
        Ok(Response::new(Box::pin(ReceiverStream::new(replies))))
    }
}

struct ProgramDoor(
    mpsc::Sender<Session>,
    mpsc::Sender<(AllocFlowRequest, oneshot::Sender<Result<FlowEnd, Status>>)>,
);

#[tonic::async_trait]
impl Programs for ProgramDoor {
    type SessionStream = Replies<ProgramCommand>;

    async fn session(
        &self,
        request: Request<Streaming<ProgramEvent>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut events = request.into_inner();
        let (commands, replies) = mpsc::channel(4);
        let say = |command| ProgramCommand {
            command: Some(command),
        };
        let welcome = program_command::Command::Welcome(ProgramWelcome::default());
        commands.send(Ok(say(welcome))).await.unwrap();
        let sessions = self.0.clone();
        tokio::spawn(async move {
            while let Ok(Some(message)) = events.message().await {
                if let Some(program_event::Event::Listen(listen)) = message.event {
                    let listening = Listening {
                        id: listen.id,
                        failure: None,
                    };
                    let _ = commands
                        .send(Ok(say(program_command::Command::Listening(listening))))
                        .await;
                    let session = Session {
                        name: listen.name,
                        layers: listen.layers,
                        listener: listen.id,
                        events,
                        commands,
                    };
                    let _ = sessions.send(session).await;
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(replies))))
    }

    async fn alloc_flow(
        &self,
        request: Request<AllocFlowRequest>,
    ) -> Result<Response<FlowEnd>, Status> {
        let (answer, answered) = oneshot::channel();
        let _ = self.1.send((request.into_inner(), answer)).await;
        answered
            .await
            .unwrap_or_else(|_| Err(Status::unavailable("no answer")))
            .map(Response::new)
    }
}
