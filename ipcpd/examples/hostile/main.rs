//! A real IPC process of a unicast layer that is hostile: it has the keys of a true member, and does what it can with what
//! passes through it. It must not be installed anywhere: it is for the black-box tests.
//!
//! What it does is said by `hostile.json` in the run directory of irmd, which it looks at again and again, and what came
//! of it stands in `hostile-report.json` there ([`desk`]). It knows of the wire what docs/protocol.md says.
//!
//! | file | does |
//! |---|---|
//! | `desk` | orders and report |
//! | `packets` | PDUs of others: altered, repeated, made up |
//! | `impostor` | handshakes of others, answered in another's place |
//! | `records` | signed records of others: altered, made up, old ones again |
//! | `relay` | requests to join and their answers |

mod desk;
mod impostor;
mod packets;
mod records;
mod relay;

use layer::{Meddler, Own, Sent};
use proto::wire::{EnrolRelay, EnrolReply, SignedRecord};

use desk::Desk;
use impostor::Impostor;
use packets::Packets;
use records::Records;

fn main() -> anyhow::Result<()> {
    ipcpd::run(|config, machine| {
        let hostile = Hostile {
            desk: Desk::new(&config.run_dir),
            packets: Packets::default(),
            impostor: Impostor::default(),
            records: Records::default(),
        };
        machine.meddle(Box::new(hostile));
    })
}

struct Hostile {
    desk: Desk,
    packets: Packets,
    impostor: Impostor,
    records: Records,
}

impl Meddler for Hostile {
    fn saw(&mut self, bytes: &[u8]) {
        self.desk.turn();
        self.desk.saw(bytes);
    }

    fn forwarded(&mut self, own: &Own<'_>, pdu: &[u8]) -> Vec<Sent> {
        self.desk.report.forwarded += 1;
        self.impostor
            .answer(&mut self.desk, own, pdu)
            .unwrap_or_else(|| self.packets.pass(&mut self.desk, own, pdu))
    }

    fn records(&mut self, own: &Own<'_>, records: &mut Vec<SignedRecord>) {
        self.records.pass(&mut self.desk, own, records);
    }

    fn relayed(&mut self, own: &Own<'_>, request: EnrolRelay) -> Vec<EnrolRelay> {
        relay::requests(&mut self.desk, own, request)
    }

    fn answered(&mut self, own: &Own<'_>, reply: &mut EnrolReply) {
        relay::answer(&mut self.desk, own, reply);
    }
}
