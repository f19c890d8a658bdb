//! The control stream to irmd: opened at the start, and again whenever it is lost, for as long as the run directory exists.

use std::time::Duration;

use libflow::{IRM_SOCKET, RunDir};
use proto::ipcp::{Command, CommandId, Event};
use proto::irm as pb;
use proto::irm::ipcp_event::Event as Message;
use proto::irm::ipcps_client::IpcpsClient;
use proto::{Code, Reason};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::config::Config;

/// What the stream brings to the runtime.
#[derive(Debug)]
pub(crate) enum Call {
    /// irmd asks.
    Command(CommandId, Box<Command>),
    /// The stream is being opened: who are you, now? Events from here on go to the new stream.
    Hello(oneshot::Sender<pb::IpcpHello>),
    /// The stream is lost: this process is an orphan until the next [`Call::Hello`].
    Lost,
    /// irmd and its run directory are gone, or it won't have this process: end.
    Leave(String),
}

/// The runtime's end of the control stream.
#[derive(Debug)]
pub(crate) struct Attach {
    pub(crate) calls: mpsc::Receiver<Call>,
    events: Option<mpsc::Sender<pb::IpcpEvent>>,
    attached: bool,
    task: tokio::task::JoinHandle<()>,
}

impl Attach {
    /// Begins to look for irmd.
    pub(crate) fn start(config: &Config) -> anyhow::Result<Self> {
        let run_dir = RunDir::find(Some(&config.run_dir));
        let (calls, calls_rx) = mpsc::channel(CALLS);
        let (events, events_rx) = mpsc::channel(EVENTS);
        let link = Link {
            client: IpcpsClient::new(run_dir.channel(IRM_SOCKET)?),
            run_dir,
            calls,
            events: events_rx,
        };
        Ok(Self {
            calls: calls_rx,
            events: Some(events),
            attached: false,
            task: tokio::spawn(link.keep()),
        })
    }

    /// Whether irmd hears what is told.
    pub(crate) fn attached(&self) -> bool {
        self.attached
    }

    pub(crate) fn set_attached(&mut self, attached: bool) {
        self.attached = attached;
    }

    /// Tells irmd; `false` if it is lost, because irmd is away or does not read.
    pub(crate) fn tell(&self, event: Event) -> bool {
        let Some(events) = &self.events else {
            return false;
        };
        self.attached && events.try_send(event.into()).is_ok()
    }

    /// Lets what was told go out, then ends the stream.
    pub(crate) async fn finish(mut self) {
        self.events = None;
        self.calls.close();
        let _ = tokio::time::timeout(LAST_WORDS, &mut self.task).await;
        self.task.abort();
    }
}

/// The task's end.
struct Link {
    run_dir: RunDir,
    client: IpcpsClient<Channel>,
    calls: mpsc::Sender<Call>,
    events: mpsc::Receiver<pb::IpcpEvent>,
}

/// Why the stream ended.
enum End {
    /// The runtime has finished.
    Finished,
    /// irmd went away.
    Lost(Reason),
}

impl Link {
    async fn keep(mut self) {
        let mut denied = 0;
        loop {
            let lost = match self.open().await {
                Ok((stream, out)) => {
                    denied = 0;
                    match self.pump(stream, out).await {
                        End::Finished => return,
                        End::Lost(why) => why,
                    }
                }
                Err(why) => why,
            };
            denied = if lost.code == Code::Denied {
                denied + 1
            } else {
                0
            };
            tracing::debug!("not attached to irmd: {lost}");
            if self.calls.send(Call::Lost).await.is_err() {
                return;
            }
            let gone = !self.run_dir.path().is_dir();
            if gone || denied >= DENIED {
                let why = if gone {
                    format!("{} is gone", self.run_dir.path().display())
                } else {
                    lost.to_string()
                };
                let _ = self.calls.send(Call::Leave(why)).await;
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Says who this process is and waits for the welcome.
    async fn open(
        &mut self,
    ) -> Result<(Streaming<pb::IpcpCommand>, mpsc::Sender<pb::IpcpEvent>), Reason> {
        // What was told to the stream before this one: the hello says it anew.
        while self.events.try_recv().is_ok() {}
        let (ask, answer) = oneshot::channel();
        let ended = |_| Reason::new(Code::Closed, "the process ends");
        self.calls
            .send(Call::Hello(ask))
            .await
            .map_err(|_| ended(()))?;
        let hello = answer.await.map_err(|_| ended(()))?;
        let (out, queue) = mpsc::channel(OUT);
        // The queue is empty.
        let _ = out.try_send(pb::IpcpEvent {
            event: Some(Message::Hello(hello)),
        });
        let begin = async {
            let mut stream = self
                .client
                .attach(ReceiverStream::new(queue))
                .await?
                .into_inner();
            let first = stream.message().await?;
            Ok::<_, tonic::Status>((stream, first))
        };
        let late = |_| Reason::new(Code::Unreachable, "irmd does not answer");
        let (stream, first) = tokio::time::timeout(WELCOME, begin).await.map_err(late)??;
        match first.and_then(|message| message.command) {
            Some(pb::ipcp_command::Command::Welcome(_)) => Ok((stream, out)),
            Some(_) | None => Err(Reason::new(
                Code::Unreachable,
                "what listens on irmd's socket is no irmd",
            )),
        }
    }

    async fn pump(
        &mut self,
        mut stream: Streaming<pb::IpcpCommand>,
        out: mpsc::Sender<pb::IpcpEvent>,
    ) -> End {
        let lost = |text: &str| End::Lost(Reason::new(Code::Unreachable, text));
        loop {
            tokio::select! {
                message = stream.message() => match message {
                    Ok(Some(message)) => {
                        if !self.command(message, &out).await {
                            return End::Finished;
                        }
                    }
                    Ok(None) => return lost("irmd ended the stream"),
                    Err(status) => return End::Lost(status.into()),
                },
                event = self.events.recv() => match event {
                    Some(event) => match tokio::time::timeout(STUCK, out.send(event)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => return lost("irmd ended the stream"),
                        Err(_) => return lost("irmd does not read"),
                    },
                    None => {
                        // Ends our half of the stream; irmd ends the other when it has read all.
                        drop(out);
                        while let Ok(Some(_)) = stream.message().await {}
                        return End::Finished;
                    }
                },
            }
        }
    }

    /// `false`: the runtime has finished.
    async fn command(&self, message: pb::IpcpCommand, out: &mpsc::Sender<pb::IpcpEvent>) -> bool {
        let id = message.id;
        match Command::from_message(message) {
            Ok(Some(command)) => self
                .calls
                .send(Call::Command(id, Box::new(command)))
                .await
                .is_ok(),
            Ok(None) => true,
            Err(bad) => {
                let event = Event::Done(id, Err(bad.into()));
                // Lost only with the stream itself, which the next turn finds out.
                let _ = tokio::time::timeout(STUCK, out.send(event.into())).await;
                true
            }
        }
    }
}

/// Commands that wait for the runtime.
const CALLS: usize = 256;
/// Events that wait for the stream; a burst of a thousand flows that go down fits.
const EVENTS: usize = 4096;
/// Of these, in gRPC's hands.
const OUT: usize = 64;
/// How long after a loss, and between attempts.
const AGAIN: Duration = Duration::from_millis(200);
const WELCOME: Duration = Duration::from_secs(5);
/// After this long without reading, irmd is taken for lost.
const STUCK: Duration = Duration::from_secs(5);
/// How long the last events may take to go out.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How often in a row irmd may deny this process before it believes it: 5 s.
const DENIED: u32 = 25;
