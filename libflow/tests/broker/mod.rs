//! The smallest daemon that brokers direct flows, to run libflow against: a real gRPC server on a real socket.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use libflow::{Code, Reason};
use proto::irm::program_command::Command;
use proto::irm::program_event::Event;
use proto::irm::programs_server::{Programs, ProgramsServer};
use proto::irm::{self as pb};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

type Commands = mpsc::Sender<Result<pb::ProgramCommand, Status>>;

#[derive(Clone, Default)]
pub(crate) struct Broker(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    listeners: HashMap<String, (u64, String, Commands)>,
    answers: HashMap<u64, oneshot::Sender<pb::FlowAnswer>>,
    last_flow: u64,
    /// What programs said on (re)connecting, and of flows that ended.
    hellos: Vec<pb::ProgramHello>,
    closed: Vec<u64>,
}

/// A broker that runs on a thread of its own; dropping it ends it as SIGKILL would, without a word to anybody.
pub(crate) struct Running {
    pub(crate) broker: Broker,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Broker {
    pub(crate) fn start(run_dir: &Path, last_flow: u64) -> Running {
        let broker = Self::default();
        broker.0.lock().unwrap().last_flow = last_flow;
        let socket = run_dir.join("irm.sock");
        let _ = std::fs::remove_file(&socket);
        let service = ProgramsServer::new(broker.clone());
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
                let server = tonic::transport::Server::builder().add_service(service);
                tokio::select! {
                    served = server.serve_with_incoming(incoming) => served.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        is_ready.recv().unwrap();
        Running {
            broker,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub(crate) fn hellos(&self) -> Vec<pb::ProgramHello> {
        self.0.lock().unwrap().hellos.clone()
    }

    pub(crate) fn closed(&self) -> Vec<u64> {
        self.0.lock().unwrap().closed.clone()
    }

    fn event(&self, event: Event, data_socket: &mut String, commands: &Commands) {
        let mut state = self.0.lock().unwrap();
        match event {
            Event::Hello(hello) => {
                *data_socket = hello.data_socket.clone();
                state.hellos.push(hello);
            }
            Event::Listen(listen) => {
                let failure = (listen.name == "taken")
                    .then(|| Reason::new(Code::Denied, "that name is not yours").into());
                if failure.is_none() {
                    state.listeners.insert(
                        listen.name,
                        (listen.id, data_socket.clone(), commands.clone()),
                    );
                }
                say(
                    commands,
                    Command::Listening(pb::Listening {
                        id: listen.id,
                        failure,
                    }),
                );
            }
            Event::Unlisten(unlisten) => state.listeners.retain(|_, l| l.0 != unlisten.id),
            Event::Answer(answer) => {
                if let Some(waiting) = state.answers.remove(&answer.flow) {
                    let _ = waiting.send(answer);
                }
            }
            Event::Closed(closed) => state.closed.push(closed.flow),
            Event::Counters(_) => {}
        }
    }
}

/// Commands that wait for a program; what comes beyond is lost.
const QUEUE: usize = 2048;

fn say(commands: &Commands, command: Command) {
    let _ = commands.try_send(Ok(pb::ProgramCommand {
        command: Some(command),
    }));
}

#[tonic::async_trait]
impl Programs for Broker {
    type SessionStream = ReceiverStream<Result<pb::ProgramCommand, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<pb::ProgramEvent>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (commands, out) = mpsc::channel(QUEUE);
        let mut events = request.into_inner();
        let broker = self.clone();
        say(
            &commands,
            Command::Welcome(pb::ProgramWelcome {
                irmd_version: "test".into(),
                session: vec![1],
            }),
        );
        tokio::spawn(async move {
            let mut data_socket = String::new();
            while let Some(Ok(message)) = events.next().await {
                broker.event(message.event.unwrap(), &mut data_socket, &commands);
            }
        });
        Ok(Response::new(ReceiverStream::new(out)))
    }

    async fn alloc_flow(
        &self,
        request: Request<pb::AllocFlowRequest>,
    ) -> Result<Response<pb::FlowEnd>, Status> {
        let request = request.into_inner();
        let (answer, answered) = oneshot::channel();
        let (end, commands, offer) = {
            let mut state = self.0.lock().unwrap();
            let Some((listener, socket, commands)) = state.listeners.get(&request.name).cloned()
            else {
                return Err(
                    Reason::new(Code::NotFound, format!("nobody offers {}", request.name)).into(),
                );
            };
            state.last_flow += 1;
            let flow = state.last_flow;
            state.answers.insert(flow, answer);
            let token = vec![flow as u8; 16];
            let uid = rustix::process::getuid().as_raw();
            let offer = pb::FlowOffer {
                flow,
                listener,
                name: request.name,
                peer: Some(pb::Peer {
                    name: request.source,
                    ..Default::default()
                }),
                qos: request.qos,
                mtu: 0,
                deadline_ms: request.timeout_ms,
                direct: true,
                token: token.clone(),
                uid,
            };
            (
                pb::FlowEnd {
                    flow,
                    socket,
                    token,
                },
                commands,
                offer,
            )
        };
        say(&commands, Command::Offer(offer));
        match answered.await {
            Ok(answer) if answer.accept => Ok(Response::new(end)),
            Ok(answer) => Err(Reason::from(answer.reason.unwrap_or_default()).into()),
            Err(_) => Err(Reason::new(Code::Failed, "the program is gone").into()),
        }
    }
}
