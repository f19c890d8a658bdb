//! Serves a name: every SDU that comes in on a flow goes back on it.
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::path::PathBuf;

use clap::Parser;
use libflow::{Batch, Flow, FlowError, Framing, Irm, Label};

/// Echoes what is written to flows to NAME.
///
/// Example: echo hello --layer overlay
#[derive(Parser)]
struct Args {
    /// The name to serve
    name: String,
    /// A layer to register the name in; may be given again
    #[arg(long)]
    layer: Vec<Label>,
    /// The run directory of irmd
    #[arg(long, env = "IRM_RUN_DIR")]
    run_dir: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let irm = Irm::connect(args.run_dir.as_deref()).await?;
    let mut listener = irm.listen(&args.name, &args.layer).await?;
    println!("serving {}", args.name);
    loop {
        let incoming = listener.accept().await?;
        tokio::spawn(async move {
            let flow = incoming.accept().await?;
            let (id, peer) = (flow.id(), flow.peer().clone());
            println!("flow {id} from {peer:?}");
            if let Err(e) = echo(&flow).await
                && !e.is_closed()
            {
                println!("flow {id}: {e}");
            }
            Ok::<_, FlowError>(())
        });
    }
}

async fn echo(flow: &Flow) -> Result<(), FlowError> {
    let mut batch = Batch::new(Framing::Record);
    loop {
        flow.read_batch(&mut batch).await?;
        flow.write_batch(&batch).await?;
    }
}
