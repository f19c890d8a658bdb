//! `irm cat`: stdin to a reliable, ordered flow, and the flow to stdout.

use libflow::{Flow, Irm};
use proto::{Code, Reason};

use super::Context;
use super::flow::{asked, stopped};
use super::pump::{Broken, from_flow, to_flow};
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
        let layers: Vec<_> = args.way.layer.iter().cloned().collect();
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
        let wanted = asked(args.qos, &args.way);
        let allocated = irm.allocate(args.name.as_str(), wanted);
        progress("allocating the flow", allocated).await?
    };
    // Each direction ends by itself; a failure of either ends both.
    tokio::try_join!(send(&flow), receive(&flow)).map(|_| ())
}

/// Stdin, then the end.
async fn send(flow: &Flow) -> Result<(), Reason> {
    let done = to_flow(&mut tokio::io::stdin(), flow).await;
    told(done, "can't read stdin")
}

/// What comes, to stdout, until the other side's end.
async fn receive(flow: &Flow) -> Result<(), Reason> {
    let done = from_flow(flow, &mut tokio::io::stdout()).await;
    told(done, "can't write to stdout")
}

fn told(done: Result<(), Broken>, what: &str) -> Result<(), Reason> {
    done.map_err(|broken| match broken {
        Broken::Stream(e) => Reason::new(Code::Failed, format!("{what}: {e}")),
        Broken::Flow(error) => error.into(),
    })
}
