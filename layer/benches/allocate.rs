//! What a flow costs two members that have an association, both of them on one core: request, acceptance, answer, and the end on
//! both sides. `taskset -c 1 cargo bench -p layer --bench allocate`; the inverse is flows a second. Processes and sockets around
//! them are in `lab-bench allocate`.

mod line;

use std::time::Duration;

use divan::Bencher;
use proto::QosSpec;

use self::line::Line;

fn main() {
    divan::main();
}

#[divan::bench]
fn raw(bencher: Bencher<'_, '_>) {
    let mut line = Line::new(2);
    bencher.bench_local(|| line.flow(QosSpec::RAW));
}

#[divan::bench]
fn data(bencher: Bencher<'_, '_>) {
    let mut line = Line::new(2);
    bencher.bench_local(|| line.flow(QosSpec::DATA));
}

/// One more, while so many stand with the same member.
#[divan::bench(args = [10, 1_000, 10_000])]
fn raw_beside(bencher: Bencher<'_, '_>, standing: usize) {
    let mut line = Line::new(2);
    line.stand_by(standing);
    bencher.bench_local(|| line.flow(QosSpec::RAW));
}

/// 64 that are asked for before the first is answered.
#[divan::bench]
fn raw_64_at_once(bencher: Bencher<'_, '_>) {
    let mut line = Line::new(2);
    bencher
        .counter(divan::counter::ItemsCount::new(64usize))
        .bench_local(|| {
            for _ in 0..64 {
                line.later(QosSpec::RAW);
            }
            line.settle();
            assert_eq!(line.stand.len(), 64);
            line.end_all();
        });
}

impl Line {
    /// One flow, from the request to its end on both sides.
    fn flow(&mut self, qos: QosSpec) {
        self.later(qos);
        self.settle();
        assert_eq!(self.stand.len(), 1);
        self.end_all();
    }

    /// Flows that nobody ends.
    fn stand_by(&mut self, count: usize) {
        for _ in 0..count {
            self.later(QosSpec::RAW);
            self.settle();
        }
        assert_eq!(std::mem::take(&mut self.stand).len(), count);
        self.answers.clear();
    }

    /// One more request, a while after the last.
    fn later(&mut self, qos: QosSpec) {
        self.elapsed += STEP;
        self.ask(qos);
    }
}

/// Between two requests, so that they stay below what a member takes of another.
const STEP: Duration = Duration::from_micros(150);
