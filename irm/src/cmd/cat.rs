//! `irm cat`: stdin to a reliable, ordered flow, and the flow to stdout.

use libflow::{AllocOptions, Batch, Flow, FlowError, Framing, Irm};
use proto::{Code, Reason};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Context;
use super::flow::stopped;
use crate::args::Cat;
use crate::out::remark;
use crate::progress::progress;

pub(crate) async fn run(c: &Context, args: Cat) -> Result<(), Reason> {
    let stop = stopped()?;
    tokio::select! {
        done = cat(c, &args) => done,
        () = stop => Err(Reason::new(Code::Failed, "stopped before both sides had ended")),
    }
}

async fn cat(c: &Context, args: &Cat) -> Result<(), Reason> {
    let irm = Irm::connect(Some(&c.run_dir)).await?;
    let flow = if args.listen {
        let layers: Vec<_> = args.layer.iter().cloned().collect();
        let mut listener = irm.listen(args.name.as_str(), &layers).await?;
        remark(&format!("waiting for a flow to {}", args.name));
        let incoming = listener.accept().await?;
        if !incoming.qos().reliable {
            let text = "irm cat takes reliable flows only; ask for qos data";
            incoming.refuse(Reason::new(Code::QosNotGranted, text));
            return Err(Reason::new(Code::QosNotGranted, text));
        }
        incoming.accept().await?
    } else {
        let wanted = AllocOptions {
            qos: args.qos,
            layer: args.layer.clone(),
            peer: args.peer.clone(),
            timeout: args.timeout,
            ..AllocOptions::default()
        };
        let allocated = irm.allocate(args.name.as_str(), wanted);
        progress("allocating the flow", allocated).await?
    };
    // Each direction ends by itself; a failure of either ends both.
    tokio::try_join!(send(&flow), receive(&flow)).map(|_| ())
}

/// Stdin, then the end.
async fn send(flow: &Flow) -> Result<(), Reason> {
    let mut stdin = tokio::io::stdin();
    let mut bytes = vec![0; READ];
    let mut batch = Batch::new(Framing::Record);
    loop {
        let len = stdin
            .read(&mut bytes)
            .await
            .map_err(|e| Reason::new(Code::Failed, format!("can't read stdin: {e}")))?;
        if len == 0 {
            return match flow.shut().await {
                // The other side had nothing to say and left.
                Err(error) if error.is_closed() => Ok(()),
                done => Ok(done?),
            };
        }
        let mtu = flow.mtu() as usize;
        for sdu in bytes[..len].chunks(mtu.clamp(1, Batch::MAX_PACKET)) {
            if !batch.fits(sdu.len()) {
                flow.write_batch(&batch).await?;
                batch.clear();
            }
            if let Some(room) = batch.push(sdu.len()) {
                room.copy_from_slice(sdu);
            }
        }
        flow.write_batch(&batch).await?;
        batch.clear();
    }
}

/// What comes, to stdout, until the other side's end.
async fn receive(flow: &Flow) -> Result<(), Reason> {
    let failed = |e| Reason::new(Code::Failed, format!("can't write to stdout: {e}"));
    let mut stdout = tokio::io::BufWriter::with_capacity(READ, tokio::io::stdout());
    let mut batch = Batch::new(Framing::Record);
    loop {
        match flow.read_batch(&mut batch).await {
            Ok(()) => {
                for sdu in batch.iter() {
                    stdout.write_all(sdu).await.map_err(failed)?;
                }
                stdout.flush().await.map_err(failed)?;
            }
            Err(FlowError::End) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// What is read from stdin at once, in bytes.
const READ: usize = 60_000;
