//! The stream to irmd by which this program lives. Losing it changes nothing on the data path: it is opened again as soon
//! as irmd is back, and only the end of the run directory, or a refusal, ends the program.

use std::time::Duration;

use libflow::{IRM_SOCKET, RunDir, Secret};
use proto::irm::vpns_client::VpnsClient;
use proto::irm::{VpnCommand, VpnConfig, VpnEvent, VpnHello, VpnInfo, vpn_command, vpn_event};
use proto::{Code, Reason};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// What irmd wants.
#[derive(Debug)]
pub enum Order {
    /// Be this; the first, and again when something has changed.
    Config(Box<VpnConfig>),
    /// Tell how you are.
    Status,
    /// End, leaving nothing behind.
    Shutdown,
    /// irmd is back and knows nothing yet: tell how you are.
    Attached,
    /// irmd is gone for good, or has no use for this program.
    Gone(Reason),
}

/// What this program says of itself when it attaches.
#[derive(Debug, Clone)]
pub struct Hello {
    /// The secret that irmd gave it; none if it was started by hand.
    pub secret: Option<Secret>,
    /// The layer that it was told to use.
    pub layer: String,
    /// The device that it was told to make; empty: as irmd says.
    pub dev: String,
}

/// The stream to irmd.
#[derive(Debug)]
pub struct Control {
    orders: mpsc::Receiver<Order>,
    events: mpsc::Sender<vpn_event::Event>,
    task: JoinHandle<()>,
}

impl Control {
    /// Attaches to the irmd of a run directory.
    pub async fn open(run_dir: RunDir, hello: Hello) -> Result<Self, Reason> {
        let client = VpnsClient::new(run_dir.channel(IRM_SOCKET).map_err(Reason::from)?);
        let link = Link {
            run_dir,
            client,
            hello,
        };
        let stream = link.attach().await?;
        let (orders_in, orders) = mpsc::channel(QUEUE);
        let (events, events_out) = mpsc::channel(QUEUE);
        let task = tokio::spawn(link.keep(stream, orders_in, events_out));
        Ok(Self {
            orders,
            events,
            task,
        })
    }

    /// The next order. Safe to cancel.
    pub async fn next(&mut self) -> Order {
        let ended = || Order::Gone(Reason::new(Code::Unreachable, "the stream to irmd ended"));
        self.orders.recv().await.unwrap_or_else(ended)
    }

    /// Tells how this VPN is. Lost while irmd is away: it is told anew after [`Order::Attached`].
    pub fn tell(&self, info: VpnInfo) {
        // A full queue means that irmd doesn't read; the next one says it all.
        let _ = self.events.try_send(vpn_event::Event::Info(info));
    }

    /// Tells irmd, if it is there, why this program can't go on, and gives it a moment to hear that.
    pub async fn fail(self, reason: Reason) {
        let Self {
            events,
            task,
            orders: _,
        } = self;
        let _ = events
            .send_timeout(vpn_event::Event::Failed(reason.into()), LAST_WORD)
            .await;
        drop(events);
        let _ = tokio::time::timeout(LAST_WORD, task).await;
    }
}

struct Link {
    run_dir: RunDir,
    client: VpnsClient<Channel>,
    hello: Hello,
}

struct Attached {
    commands: Streaming<VpnCommand>,
    events: mpsc::Sender<VpnEvent>,
}

enum Lost {
    Stream,
    Owner,
}

impl Link {
    async fn attach(&self) -> Result<Attached, Reason> {
        let (events, queue) = mpsc::channel(QUEUE);
        let hello = VpnHello {
            secret: self
                .hello
                .secret
                .as_ref()
                .map(|s| s.bytes().to_vec())
                .unwrap_or_default(),
            pid: std::process::id(),
            layer: self.hello.layer.clone(),
            dev: self.hello.dev.clone(),
        };
        // The queue is new, so there is room.
        let _ = events.try_send(VpnEvent {
            event: Some(vpn_event::Event::Hello(hello)),
        });
        let mut client = self.client.clone();
        let serve = tokio::time::timeout(ATTACH, client.serve(ReceiverStream::new(queue))).await;
        let socket = self.run_dir.path().join(IRM_SOCKET);
        let unreachable = |why: &str| {
            Reason::new(
                Code::Unreachable,
                format!(
                    "irmd can't be reached at {}: {why}; start irmd or set IRM_RUN_DIR",
                    socket.display()
                ),
            )
        };
        let reply = serve.map_err(|_| unreachable("it does not answer"))?;
        let commands = reply.map_err(|status| match Reason::from(status) {
            reason if reason.code == Code::Unreachable => unreachable(&reason.text),
            reason => reason,
        })?;
        Ok(Attached {
            commands: commands.into_inner(),
            events,
        })
    }

    async fn keep(
        self,
        mut stream: Attached,
        orders: mpsc::Sender<Order>,
        mut events: mpsc::Receiver<vpn_event::Event>,
    ) {
        loop {
            match serve(&mut stream, &orders, &mut events).await {
                Lost::Owner => {
                    linger(stream).await;
                    return;
                }
                Lost::Stream => {
                    tracing::info!("the stream to irmd is lost; the VPN goes on, trying again")
                }
            }
            stream = match self.attach_again(&mut events).await {
                Some(Ok(stream)) => stream,
                Some(Err(reason)) => {
                    let _ = orders.send(Order::Gone(reason)).await;
                    return;
                }
                None => return,
            };
            tracing::info!("attached to irmd again");
            let _ = orders.send(Order::Attached).await;
        }
    }

    /// Tries until irmd is back; `None` if the owner has gone meanwhile.
    async fn attach_again(
        &self,
        events: &mut mpsc::Receiver<vpn_event::Event>,
    ) -> Option<Result<Attached, Reason>> {
        loop {
            tokio::time::sleep(AGAIN).await;
            // What was told to nobody is told anew later.
            loop {
                match events.try_recv() {
                    Ok(_) => {}
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => return None,
                }
            }
            if !self.run_dir.path().exists() {
                let text = format!(
                    "irmd and its run directory {} are gone",
                    self.run_dir.path().display()
                );
                return Some(Err(Reason::new(Code::Unreachable, text)));
            }
            match self.attach().await {
                Ok(stream) => return Some(Ok(stream)),
                Err(refused) if refused.code == Code::Denied => return Some(Err(refused)),
                Err(away) => tracing::trace!("irmd is still away: {away}"),
            }
        }
    }
}

/// Carries orders and events until either side ends.
async fn serve(
    stream: &mut Attached,
    orders: &mpsc::Sender<Order>,
    events: &mut mpsc::Receiver<vpn_event::Event>,
) -> Lost {
    loop {
        tokio::select! {
            command = stream.commands.message() => match command {
                Ok(Some(VpnCommand { command: Some(command) })) => {
                    let order = match command {
                        vpn_command::Command::Config(config) => Order::Config(Box::new(config)),
                        vpn_command::Command::Status(_) => Order::Status,
                        vpn_command::Command::Shutdown(_) => Order::Shutdown,
                    };
                    if orders.send(order).await.is_err() {
                        return Lost::Owner;
                    }
                }
                Ok(Some(VpnCommand { command: None })) => {} // of a newer irmd
                Ok(None) => return Lost::Stream,
                Err(status) => {
                    let reason = Reason::from(status);
                    tracing::debug!("the stream to irmd broke: {reason}");
                    if reason.code == Code::Denied {
                        let _ = orders.send(Order::Gone(reason)).await;
                        return Lost::Owner;
                    }
                    return Lost::Stream;
                }
            },
            event = events.recv() => match event {
                Some(event) => {
                    if stream.events.send(VpnEvent { event: Some(event) }).await.is_err() {
                        return Lost::Stream;
                    }
                }
                None => return Lost::Owner,
            },
        }
    }
}

/// Ends the own half of the stream and waits a moment for irmd to end the other, so that it has heard the last word.
async fn linger(stream: Attached) {
    let Attached {
        mut commands,
        events,
    } = stream;
    drop(events);
    let _ = tokio::time::timeout(LAST_WORD, async {
        while let Ok(Some(_)) = commands.message().await {}
    })
    .await;
}

/// Orders or events that wait.
const QUEUE: usize = 16;
/// How long an irmd may take to answer.
const ATTACH: Duration = Duration::from_secs(5);
/// Between attempts to attach again.
const AGAIN: Duration = Duration::from_millis(200);
/// How long the last event may take.
const LAST_WORD: Duration = Duration::from_millis(500);
