//! A real irmd in a directory of its own, and raw clients of its services. The programs that it starts are shell scripts that
//! keep their secret in a file and wait, so that a test can speak for them.

#![allow(dead_code, reason = "each test program uses a part")]
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "what is not expected fails the test"
)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use proto::irm::admin_client::AdminClient;
use proto::irm::ipcps_client::IpcpsClient;
use proto::irm::programs_client::ProgramsClient;
use proto::irm::{
    AllocFlowRequest, FlowAnswer, FlowEnd, FlowOffer, IpcpCommand, IpcpEvent, IpcpHello, Listen,
    ProgramCommand, ProgramEvent, ProgramHello, Qos, ipcp_command, ipcp_event, program_command,
    program_event,
};
use proto::{QosSpec, Reason};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

pub(crate) struct Host {
    pub(crate) dir: tempfile::TempDir,
    child: Option<Child>,
}

impl Host {
    /// A host whose irmd is not yet running.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let exe = env!("CARGO_BIN_EXE_irmd");
        fs::hard_link(exe, bin.join("irmd"))
            .or_else(|_| fs::copy(exe, bin.join("irmd")).map(|_| ()))
            .unwrap();
        for program in ["ipcpd", "shim-udp", "vpn"] {
            let path = bin.join(program);
            // The secret is kept under the process number, which `exec` does not change.
            let script = format!(
                "#!/bin/sh\ncat > {0}/secret.$$.new\nmv {0}/secret.$$.new {0}/secret.$$\nexec sleep 1000\n",
                dir.path().display()
            );
            fs::write(&path, script).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { dir, child: None }
    }

    pub(crate) async fn started() -> Self {
        let mut host = Self::new();
        host.start(&[]).await;
        host
    }

    pub(crate) async fn start(&mut self, more: &[&str]) {
        self.child = Some(spawn(self.command(more).stderr(self.log())));
        let end = Instant::now() + Duration::from_secs(20);
        while let Err(error) = self.try_admin().await {
            assert!(
                Instant::now() < end,
                "irmd does not answer: {error}\n{}",
                self.read_log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn command(&self, more: &[&str]) -> Command {
        let mut command = Command::new(self.dir.path().join("bin/irmd"));
        command
            .arg("--run-dir")
            .arg(self.run())
            .args(more)
            .env("IRM_LOG", "debug")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }

    pub(crate) fn output(&self, more: &[&str]) -> Output {
        let child = spawn(
            self.command(more)
                .env("IRM_LOG", "info")
                .stderr(Stdio::piped()),
        );
        child.wait_with_output().unwrap()
    }

    pub(crate) fn run(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub(crate) fn read_log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn log(&self) -> fs::File {
        fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Ends irmd at once and nothing else.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Ends irmd in good order.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        signal(child.id(), rustix::process::Signal::TERM);
        let end = Instant::now() + Duration::from_secs(15);
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < end,
                "irmd did not end within 15 s\n{}",
                self.read_log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) async fn channel(&self, socket: &str) -> Result<Channel, tonic::transport::Error> {
        tonic::transport::Endpoint::try_from(format!(
            "unix://{}",
            self.run().join(socket).display()
        ))?
        .connect()
        .await
    }

    async fn try_admin(&self) -> Result<(), tonic::Status> {
        let channel = self
            .channel("admin.sock")
            .await
            .map_err(|e| tonic::Status::unavailable(e.to_string()))?;
        AdminClient::new(channel)
            .list_ipcps(proto::irm::Empty {})
            .await
            .map(|_| ())
    }

    pub(crate) async fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel("admin.sock").await.unwrap())
            .max_decoding_message_size(1 << 26)
    }

    pub(crate) async fn programs(&self) -> ProgramsClient<Channel> {
        ProgramsClient::new(self.channel("irm.sock").await.unwrap())
    }

    pub(crate) async fn session(&self, hello: ProgramHello) -> Session {
        let (tx, rx) = mpsc::channel(64);
        tx.send(ProgramEvent {
            event: Some(program_event::Event::Hello(hello)),
        })
        .await
        .unwrap();
        let rx = self
            .programs()
            .await
            .session(ReceiverStream::new(rx))
            .await
            .unwrap()
            .into_inner();
        let mut session = Session {
            tx,
            rx,
            id: Vec::new(),
        };
        match session.next().await {
            program_command::Command::Welcome(w) => session.id = w.session,
            other => panic!("no welcome but {other:?}"),
        }
        session
    }

    /// A program that could be joined at a socket of its own.
    pub(crate) async fn program(&self) -> Session {
        let data_socket = format!("{}/data", self.dir.path().display());
        self.session(ProgramHello {
            program: "test".into(),
            data_socket,
            pid: std::process::id(),
            ..Default::default()
        })
        .await
    }

    pub(crate) async fn alloc(
        &self,
        name: &str,
        change: impl FnOnce(&mut AllocFlowRequest),
    ) -> Result<FlowEnd, Reason> {
        let mut request = AllocFlowRequest {
            name: name.into(),
            qos: Some(qos()),
            timeout_ms: 5000,
            ..Default::default()
        };
        change(&mut request);
        Ok(self
            .programs()
            .await
            .alloc_flow(request)
            .await
            .map_err(Reason::from)?
            .into_inner())
    }

    /// The secrets of children that were started, by process number.
    pub(crate) fn secrets(&self) -> Vec<(u32, Vec<u8>)> {
        let files = fs::read_dir(self.dir.path()).unwrap().flatten();
        let pid = |p: &Path| {
            p.file_name()?
                .to_str()?
                .strip_prefix("secret.")?
                .parse::<u32>()
                .ok()
        };
        files
            .filter_map(|f| Some((pid(&f.path())?, fs::read(f.path()).unwrap())))
            .collect()
    }

    /// Waits for a child that isn't one of these.
    pub(crate) async fn child_besides(&self, known: &[u32]) -> (u32, Vec<u8>) {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(found) = self
                .secrets()
                .into_iter()
                .find(|(pid, _)| !known.contains(pid))
            {
                return found;
            }
            assert!(
                Instant::now() < end,
                "no child was started\n{}",
                self.read_log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Attaches in the place of an IPC process.
    pub(crate) async fn attach(&self, hello: IpcpHello) -> Result<Ipcp, Reason> {
        let (tx, rx) = mpsc::channel(64);
        tx.send(IpcpEvent {
            event: Some(ipcp_event::Event::Hello(hello)),
        })
        .await
        .unwrap();
        let mut client = IpcpsClient::new(self.channel("irm.sock").await.unwrap());
        let rx = client
            .attach(ReceiverStream::new(rx))
            .await
            .map_err(Reason::from)?
            .into_inner();
        let reach = Vec::new();
        let mut ipcp = Ipcp { tx, rx, reach };
        match ipcp.message().await?.command {
            Some(ipcp_command::Command::Welcome(_)) => Ok(ipcp),
            other => panic!("no welcome but {other:?}"),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for (pid, _) in self.secrets() {
            signal(pid, rustix::process::Signal::KILL);
        }
    }
}

pub(crate) struct Session {
    pub(crate) tx: mpsc::Sender<ProgramEvent>,
    pub(crate) rx: Streaming<ProgramCommand>,
    pub(crate) id: Vec<u8>,
}

impl Session {
    pub(crate) async fn send(&self, event: program_event::Event) {
        self.tx
            .send(ProgramEvent { event: Some(event) })
            .await
            .unwrap();
    }

    /// The next command that is no question for counters.
    pub(crate) async fn next(&mut self) -> program_command::Command {
        loop {
            let message = soon(self.rx.message())
                .await
                .unwrap()
                .expect("the session ended");
            match message.command.unwrap() {
                program_command::Command::Counters(_) => {}
                command => return command,
            }
        }
    }

    /// Listens; gives the failure, if it is one.
    pub(crate) async fn listen(
        &mut self,
        id: u64,
        name: &str,
        layers: &[&str],
    ) -> Result<(), Reason> {
        let layers = layers.iter().map(|l| (*l).to_owned()).collect();
        self.send(program_event::Event::Listen(Listen {
            id,
            name: name.into(),
            layers,
        }))
        .await;
        match self.next().await {
            program_command::Command::Listening(l) => {
                assert_eq!(l.id, id);
                l.failure.map_or(Ok(()), |f| Err(f.into()))
            }
            other => panic!("no Listening but {other:?}"),
        }
    }

    pub(crate) async fn offer(&mut self) -> FlowOffer {
        match self.next().await {
            program_command::Command::Offer(offer) => offer,
            other => panic!("no offer but {other:?}"),
        }
    }

    pub(crate) async fn answer(&self, flow: u64, refusal: Option<Reason>) {
        let accept = refusal.is_none();
        self.send(program_event::Event::Answer(FlowAnswer {
            flow,
            accept,
            reason: refusal.map(Into::into),
        }))
        .await;
    }
}

pub(crate) struct Ipcp {
    pub(crate) tx: mpsc::Sender<IpcpEvent>,
    pub(crate) rx: Streaming<IpcpCommand>,
    /// Where it was told that it is below.
    pub(crate) reach: Vec<String>,
}

impl Ipcp {
    pub(crate) async fn message(&mut self) -> Result<IpcpCommand, Reason> {
        Ok(soon(self.rx.message())
            .await
            .map_err(Reason::from)?
            .expect("the attachment ended"))
    }

    /// The next command that is neither a question for the status nor word of where it is.
    pub(crate) async fn next(&mut self) -> (u64, ipcp_command::Command) {
        loop {
            let message = self.message().await.unwrap();
            match message.command.unwrap() {
                ipcp_command::Command::Status(_) => {
                    self.done(
                        message.id,
                        proto::irm::done::Answer::Status(Default::default()),
                    )
                    .await
                }
                ipcp_command::Command::Set(set) if set.reach.is_some() => {
                    self.reach = set.reach.unwrap_or_default().at;
                    self.ok(message.id).await;
                }
                command => return (message.id, command),
            }
        }
    }

    /// Where it is told that it is below, which is all that it is told meanwhile.
    pub(crate) async fn whereabouts(&mut self) -> Vec<String> {
        while self.reach.is_empty() {
            let message = self.message().await.unwrap();
            let Some(ipcp_command::Command::Set(set)) = message.command else {
                panic!("{message:?}")
            };
            self.reach = set.reach.unwrap().at;
            self.ok(message.id).await;
        }
        self.reach.clone()
    }

    pub(crate) async fn send(&self, event: ipcp_event::Event) {
        self.tx
            .send(IpcpEvent { event: Some(event) })
            .await
            .unwrap();
    }

    pub(crate) async fn done(&self, id: u64, answer: proto::irm::done::Answer) {
        self.send(ipcp_event::Event::Done(proto::irm::Done {
            id,
            failure: None,
            answer: Some(answer),
        }))
        .await;
    }

    pub(crate) async fn ok(&self, id: u64) {
        self.send(ipcp_event::Event::Done(proto::irm::Done {
            id,
            failure: None,
            answer: None,
        }))
        .await;
    }
}

/// A program that was just written may still be open in a child that another test is about to start.
fn spawn(command: &mut Command) -> Child {
    loop {
        match command.spawn() {
            Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(10))
            }
            child => return child.unwrap(),
        }
    }
}

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future)
        .await
        .expect("nothing came within 10 s")
}

pub(crate) fn qos() -> Qos {
    QosSpec::BEST.into()
}

pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid as i32) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

pub(crate) fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.starts_with(" Z"))
}
