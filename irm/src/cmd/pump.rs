//! Bytes of a stream over a reliable, ordered flow, each direction by itself: what `cat`, `forward`, `expose` and `proxy` share.

use std::io;
use std::pin::Pin;
use std::task::ready;

use libflow::{Batch, Flow, FlowError, Framing};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::task::coop::consume_budget;

/// Which of the two sides ended a direction before its time.
#[derive(Debug)]
pub(super) enum Broken {
    /// The stream.
    Stream(io::Error),
    /// The flow.
    Flow(FlowError),
}

/// What the stream says, to the flow, and then its end. Reads no faster than the flow takes it.
pub(super) async fn to_flow(
    from: &mut (impl AsyncRead + Unpin),
    flow: &Flow,
) -> Result<(), Broken> {
    loop {
        let (mut space, len) = read_ready(from).await.map_err(Broken::Stream)?;
        if len == 0 {
            return match flow.shut().await {
                // The other side had nothing to say and left.
                Err(error) if error.is_closed() => Ok(()),
                done => done.map_err(Broken::Flow),
            };
        }
        write_all(flow, &space.space()[..len])
            .await
            .map_err(Broken::Flow)?;
        // A flow that always has room never lets others run.
        consume_budget().await;
    }
}

/// What comes over the flow, to the stream, and then its end. Takes no more than the stream does.
pub(super) async fn from_flow(
    flow: &Flow,
    to: &mut (impl AsyncWrite + Unpin),
) -> Result<(), Broken> {
    loop {
        let batch = match flow.next_batch().await {
            Ok(batch) => batch,
            Err(FlowError::End) => return to.shutdown().await.map_err(Broken::Stream),
            Err(error) => return Err(Broken::Flow(error)),
        };
        let mut space = Batch::new(Framing::Train);
        let len = join(&batch, space.space());
        drop(batch);
        let wrote = async {
            to.write_all(&space.space()[..len]).await?;
            to.flush().await
        };
        wrote.await.map_err(Broken::Stream)?;
        consume_budget().await;
    }
}

/// What is there of a stream, waiting for the first byte, and how many bytes that are; 0 at its end. Who waits holds no buffer.
async fn read_ready(from: &mut (impl AsyncRead + Unpin)) -> io::Result<(Batch, usize)> {
    std::future::poll_fn(|cx| {
        let mut space = Batch::new(Framing::Train);
        let mut buf = ReadBuf::new(&mut space.space()[..READ]);
        ready!(Pin::new(&mut *from).poll_read(cx, &mut buf))?;
        let len = buf.filled().len();
        Ok((space, len)).into()
    })
    .await
}

/// Cut to what the flow carries, many SDUs a system call.
async fn write_all(flow: &Flow, bytes: &[u8]) -> Result<(), FlowError> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let mut batch = Batch::new(Framing::Record);
        let most = (flow.mtu() as usize).clamp(1, Batch::MAX_PACKET);
        let taken = cut(rest, most, &mut batch);
        match flow.write_batch(&batch).await {
            Ok(()) => rest = &rest[taken..],
            // The path has become narrower since they were cut.
            Err(FlowError::TooLarge { len, mtu }) if (mtu as usize) < len && mtu > 0 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Fills a record with pieces of at most `most` bytes; how many bytes it took.
fn cut(bytes: &[u8], most: usize, batch: &mut Batch) -> usize {
    let mut taken = 0;
    for piece in bytes.chunks(most) {
        let Some(room) = batch.push(piece.len()) else {
            break;
        };
        room.copy_from_slice(piece);
        taken += piece.len();
    }
    taken
}

/// Puts all SDUs of a record behind one another; how many bytes that are. A record's lengths take more room than is lost here.
fn join(batch: &Batch, space: &mut [u8]) -> usize {
    let mut len = 0;
    for sdu in batch.iter() {
        space[len..len + sdu.len()].copy_from_slice(sdu);
        len += sdu.len();
    }
    len
}

/// What is read from a stream at once, in bytes: a record, when it is cut to a usual MTU.
const READ: usize = 60_000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_that_were_cut_are_joined_to_the_same(bytes in prop::collection::vec(any::<u8>(), 1..READ), most in 1usize..=Batch::MAX_PACKET) {
            let (mut rest, mut got) = (&bytes[..], Vec::new());
            let mut space = vec![0; Batch::CAPACITY];
            while !rest.is_empty() {
                let mut batch = Batch::new(Framing::Record);
                let taken = cut(rest, most, &mut batch);
                prop_assert!(taken > 0 && batch.iter().all(|sdu| sdu.len() <= most));
                let len = join(&batch, &mut space);
                prop_assert_eq!(len, taken);
                got.extend_from_slice(&space[..len]);
                rest = &rest[taken..];
            }
            prop_assert_eq!(got, bytes);
        }
    }
}
