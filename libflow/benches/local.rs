//! A direct flow between two programs of one host against a bare `SOCK_SEQPACKET` pair, in the same run.
//!
//! `cargo bench -p libflow`: the median of `round_trip/flow` is to be at most 1.1 times that of `round_trip/bare`, the throughput of
//! `batches/flow` at least 0.8 times that of `batches/bare`.
#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

#[allow(dead_code, reason = "the tests use all of it")]
#[path = "../tests/broker/mod.rs"]
mod broker;

use divan::Bencher;
use divan::counter::BytesCount;
use libflow::blocking::{Flow, Irm};
use libflow::port::RecordSocket;
use libflow::{AllocOptions, Batch, Framing};
use rustix::net::{RecvFlags, SendFlags};

fn main() {
    divan::main();
}

/// A flow whose other end a thread serves.
fn with_flow(serve: impl Fn(Flow) + Send + 'static, run: impl FnOnce(Flow)) {
    let dir = tempfile::tempdir().unwrap();
    let _broker = broker::Broker::start(dir.path(), 0);
    let irm = Irm::connect(Some(dir.path())).unwrap();
    let mut listener = irm.listen("bench", &[]).unwrap();
    let server = std::thread::spawn(move || serve(listener.accept().unwrap().accept().unwrap()));
    run(irm.allocate("bench", AllocOptions::default()).unwrap());
    server.join().unwrap();
}

#[divan::bench_group(sample_count = 200, sample_size = 200)]
mod round_trip {
    use super::*;

    const SIZES: [usize; 2] = [64, 1400];

    #[divan::bench(args = SIZES)]
    fn bare(bencher: Bencher<'_, '_>, size: usize) {
        let (here, there) = RecordSocket::pair().unwrap();
        let server = std::thread::spawn(move || {
            let mut buf = [0; 2048];
            loop {
                let (_, len) = rustix::net::recv(&there, &mut buf[..], RecvFlags::empty()).unwrap();
                if len == 0 {
                    return;
                }
                rustix::net::send(&there, &buf[..len], SendFlags::empty()).unwrap();
            }
        });
        let (sdu, mut buf) = (vec![0; size], [0; 2048]);
        bencher.bench_local(|| {
            rustix::net::send(&here, &sdu, SendFlags::empty()).unwrap();
            rustix::net::recv(&here, &mut buf[..], RecvFlags::empty()).unwrap();
        });
        drop(here);
        server.join().unwrap();
    }

    #[divan::bench(args = SIZES)]
    fn flow(bencher: Bencher<'_, '_>, size: usize) {
        let serve = |flow: Flow| {
            let mut buf = [0; 2048];
            while let Ok(len) = flow.read(&mut buf) {
                flow.write(&buf[..len]).unwrap();
            }
        };
        with_flow(serve, |flow| {
            let (sdu, mut buf) = (vec![0; size], [0; 2048]);
            bencher.bench_local(|| {
                flow.write(&sdu).unwrap();
                flow.read(&mut buf).unwrap();
            });
        });
    }
}

/// 1 MB in full records of SDUs, written by one thread and read by another, who looks at each SDU.
#[divan::bench_group(sample_count = 100)]
mod batches {
    use super::*;

    const SIZES: [usize; 3] = [64, 1400, 9000];

    #[divan::bench(args = SIZES)]
    fn bare(bencher: Bencher<'_, '_>, size: usize) {
        let (here, there) = RecordSocket::pair().unwrap();
        let server = std::thread::spawn(move || {
            let mut buf = vec![0; Batch::CAPACITY];
            while let Ok((_, len @ 1..)) =
                rustix::net::recv(&there, &mut buf[..], RecvFlags::empty())
            {
                divan::black_box(&buf[..len]);
            }
        });
        let batch = full(size);
        each(bencher, &batch, |batch| {
            rustix::net::send(&here, batch.bytes(), SendFlags::empty()).unwrap();
        });
        drop(here);
        server.join().unwrap();
    }

    #[divan::bench(args = SIZES)]
    fn flow(bencher: Bencher<'_, '_>, size: usize) {
        let serve = |flow: Flow| {
            let mut batch = Batch::new(Framing::Record);
            while flow.read_batch(&mut batch).is_ok() {
                divan::black_box(batch.iter().map(<[u8]>::len).sum::<usize>());
            }
        };
        with_flow(serve, |flow| {
            let batch = full(size);
            each(bencher, &batch, |batch| flow.write_batch(batch).unwrap());
        });
    }

    fn full(size: usize) -> Batch {
        let mut batch = Batch::new(Framing::Record);
        while let Some(room) = batch.push(size) {
            room.fill(1);
        }
        batch
    }

    fn each(bencher: Bencher<'_, '_>, batch: &Batch, write: impl Fn(&Batch)) {
        let payload = batch.bytes().len() - 2 * batch.count();
        let records = (1 << 20) / payload;
        bencher
            .counter(BytesCount::new(records * payload))
            .bench_local(|| (0..records).for_each(|_| write(batch)));
    }
}
