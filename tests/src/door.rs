//! The data socket of a flow by its bytes alone, for those who break its rules.

use std::io::{ErrorKind, Read};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use proto::Token;
use proto::record::{Item, Record};
use socket2::{Domain, SockAddr, Socket, Type};

/// A process at a data socket.
pub struct Guest(Socket);

/// What it hears.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// A control item.
    Item(Item),
    /// A record of SDUs.
    Data(Vec<u8>),
    /// The socket was closed.
    End,
}

impl Guest {
    /// Connects, shows a token, and hears the answer.
    pub fn join(path: &Path, token: &Token) -> anyhow::Result<(Self, Heard)> {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).context("no socket")?;
        let at = SockAddr::unix(path).context("the path is too long")?;
        socket
            .connect(&at)
            .with_context(|| format!("can't connect to {}", path.display()))?;
        socket
            .set_read_timeout(Some(PATIENCE))
            .context("can't set a deadline")?;
        let guest = Self(socket);
        guest.send(&Item::Join(token.clone()).encode())?;
        let heard = guest.hear()?;
        Ok((guest, heard))
    }

    /// Sends a record as it is.
    pub fn send(&self, record: &[u8]) -> anyhow::Result<()> {
        let sent = self.0.send(record).context("can't send a record")?;
        ensure!(sent == record.len(), "a record was cut");
        Ok(())
    }

    /// The next record.
    pub fn hear(&self) -> anyhow::Result<Heard> {
        let mut record = vec![0; 1 << 16];
        let len = match (&self.0).read(&mut record) {
            // Closed with something of ours unread.
            Err(e) if e.kind() == ErrorKind::ConnectionReset => 0,
            read => read.context("nothing came")?,
        };
        record.truncate(len);
        Ok(match Record::parse(&record)? {
            _ if len == 0 => Heard::End,
            Record::Control(item) => Heard::Item(item),
            Record::Data => Heard::Data(record),
        })
    }
}

const PATIENCE: Duration = Duration::from_secs(5);
