//! `irm echo`: sends every SDU back.

use libflow::{Batch, Flow, FlowError, Framing};
use proto::Reason;

use super::Context;
use super::flow::listen;
use crate::args::Echo;
use crate::out::remark;

pub(crate) async fn run(c: &Context, args: Echo) -> Result<(), Reason> {
    listen(c, &args.name, &args.layers, serve).await
}

async fn serve(flow: Flow) {
    if let Err(error) = echo(&flow).await
        && !error.is_closed()
    {
        remark(&format!("flow {}: {error}", flow.id()));
    }
}

/// Until the flow ends, which is always an error.
async fn echo(flow: &Flow) -> Result<(), FlowError> {
    let mut batch = Batch::new(Framing::Record);
    loop {
        flow.read_batch(&mut batch).await?;
        flow.write_batch(&batch).await?;
    }
}
