//! The daemon's side of `Attach`, as a real gRPC server that a test drives by hand.

use std::path::Path;
use std::time::Duration;

use proto::Reason;
use proto::ipcp::{Command, Event};
use proto::irm as pb;
use proto::irm::ipcp_event::Event as Message;
use proto::irm::ipcps_server::{Ipcps, IpcpsServer};
use proto::irm::program_command::Command as ToProgram;
use proto::irm::program_event::Event as FromProgram;
use proto::irm::programs_server::{Programs, ProgramsServer};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

type Commands = mpsc::Sender<Result<pb::IpcpCommand, Status>>;

/// A daemon on a thread of its own; dropping it ends it as SIGKILL would.
pub(crate) struct Daemon {
    attached: mpsc::Receiver<Attached>,
    listening: mpsc::Receiver<Listening>,
    allocations: mpsc::Receiver<Allocation>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// A program that listens to a name.
pub(crate) struct Listening {
    pub(crate) listen: pb::Listen,
    pub(crate) commands: mpsc::Sender<Result<pb::ProgramCommand, Status>>,
    pub(crate) answers: mpsc::Receiver<pb::FlowAnswer>,
}

/// A program's wish for a flow, and the way back to it.
pub(crate) type Allocation = (
    pb::AllocFlowRequest,
    oneshot::Sender<Result<pb::FlowEnd, Reason>>,
);

/// An IPC process that attached.
pub(crate) struct Attached {
    pub(crate) hello: pb::IpcpHello,
    commands: Commands,
    events: mpsc::Receiver<Event>,
    last_id: u64,
}

impl Daemon {
    pub(crate) fn start(run_dir: &Path) -> Self {
        let socket = run_dir.join("irm.sock");
        let _ = std::fs::remove_file(&socket);
        let (new, attached) = mpsc::channel(8);
        let (listens, listening) = mpsc::channel(8);
        let (wants, allocations) = mpsc::channel(8);
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let incoming = UnixListenerStream::new(UnixListener::bind(socket).unwrap());
                ready.send(()).unwrap();
                let server = tonic::transport::Server::builder()
                    .add_service(IpcpsServer::new(Service(new)))
                    .add_service(ProgramsServer::new(Flows(listens, wants)));
                tokio::select! {
                    served = server.serve_with_incoming(incoming) => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        is_ready.recv().unwrap();
        Self {
            attached,
            listening,
            allocations,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub(crate) async fn listening(&mut self) -> Listening {
        within(self.listening.recv()).await.unwrap()
    }

    pub(crate) async fn allocation(&mut self) -> Allocation {
        within(self.allocations.recv()).await.unwrap()
    }

    pub(crate) async fn attached(&mut self) -> Attached {
        within(self.attached.recv()).await.unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Attached {
    /// Asks and gives the number by which the answer will be known.
    pub(crate) async fn ask(&mut self, command: Command) -> u64 {
        self.last_id += 1;
        self.commands
            .send(Ok(command.into_message(self.last_id)))
            .await
            .unwrap();
        self.last_id
    }

    /// Sends a message as it is and gives what comes next.
    pub(crate) async fn ask_raw(&mut self, message: pb::IpcpCommand) -> Event {
        self.commands.send(Ok(message)).await.unwrap();
        self.event().await
    }

    pub(crate) async fn event(&mut self) -> Event {
        within(self.events.recv()).await.expect("the stream stands")
    }

    /// Whether the process closed its half of the stream.
    pub(crate) async fn ended(&mut self) -> bool {
        within(self.events.recv()).await.is_none()
    }
}

/// No test waits for longer.
pub(crate) async fn within<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), wait)
        .await
        .expect("it took more than 10 s")
}

struct Service(mpsc::Sender<Attached>);

#[tonic::async_trait]
impl Ipcps for Service {
    type AttachStream = ReceiverStream<Result<pb::IpcpCommand, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<pb::IpcpEvent>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (commands, out) = mpsc::channel(64);
        let mut stream = request.into_inner();
        let new = self.0.clone();
        let welcome = pb::AttachWelcome {
            irmd_version: "test".into(),
        };
        let welcome = pb::IpcpCommand {
            id: 0,
            command: Some(pb::ipcp_command::Command::Welcome(welcome)),
        };
        commands.send(Ok(welcome)).await.unwrap();
        tokio::spawn(async move {
            let first = stream.next().await.unwrap().unwrap().event;
            let Some(Message::Hello(hello)) = first else {
                panic!("{first:?} is no hello")
            };
            let (said, events) = mpsc::channel(64);
            let _ = new
                .send(Attached {
                    hello,
                    commands,
                    events,
                    last_id: 0,
                })
                .await;
            while let Some(Ok(message)) = stream.next().await {
                let _ = said
                    .send(Event::from_message(message).unwrap().unwrap())
                    .await;
            }
        });
        Ok(Response::new(ReceiverStream::new(out)))
    }
}

struct Flows(mpsc::Sender<Listening>, mpsc::Sender<Allocation>);

#[tonic::async_trait]
impl Programs for Flows {
    type SessionStream = ReceiverStream<Result<pb::ProgramCommand, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<pb::ProgramEvent>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (commands, out) = mpsc::channel(64);
        let mut stream = request.into_inner();
        let listens = self.0.clone();
        let say = |command| pb::ProgramCommand {
            command: Some(command),
        };
        let welcome = ToProgram::Welcome(pb::ProgramWelcome::default());
        commands.send(Ok(say(welcome))).await.unwrap();
        tokio::spawn(async move {
            let (answered, answers) = mpsc::channel(8);
            let mut answers = Some(answers);
            while let Some(Ok(message)) = stream.next().await {
                match message.event.unwrap() {
                    FromProgram::Listen(listen) => {
                        let ready = pb::Listening {
                            id: listen.id,
                            failure: None,
                        };
                        commands
                            .send(Ok(say(ToProgram::Listening(ready))))
                            .await
                            .unwrap();
                        let (commands, answers) = (commands.clone(), answers.take().unwrap());
                        let _ = listens
                            .send(Listening {
                                listen,
                                commands,
                                answers,
                            })
                            .await;
                    }
                    FromProgram::Answer(answer) => answered.send(answer).await.unwrap(),
                    _ => {}
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(out)))
    }

    async fn alloc_flow(
        &self,
        request: Request<pb::AllocFlowRequest>,
    ) -> Result<Response<pb::FlowEnd>, Status> {
        let (reply, answer) = oneshot::channel();
        let _ = self.1.send((request.into_inner(), reply)).await;
        Ok(Response::new(answer.await.unwrap()?))
    }
}
