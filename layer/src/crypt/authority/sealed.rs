//! An authority whose key lies on disk under a passphrase only: without that it is a ledger that nobody can write in.

use proto::{Code, Label, Reason};
use zeroize::Zeroizing;

use super::stored::Ledger;
use super::{Authority, Root};
use crate::crypt::file::{Corrupt, Reader, Writer};
use crate::crypt::locked::Lock;

/// How a file holds an authority.
#[derive(Debug)]
pub enum Kept {
    /// With its key.
    Open(Box<Authority>),
    /// With its key under a passphrase.
    Sealed(Sealed),
}

/// An authority that can do nothing until it is unlocked.
pub struct Sealed {
    bytes: Zeroizing<Vec<u8>>,
    layer: Label,
}

/// How the key of an authority that is in use is kept.
pub(super) struct Seal {
    lock: Lock,
    /// The keys as they lie in the file.
    keys: Vec<u8>,
}

impl Kept {
    /// Reads what [`Authority::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Corrupt> {
        if !Sealed::is(bytes) {
            return Authority::from_bytes(bytes).map(|a| Self::Open(Box::new(a)));
        }
        let read = Sealed::read(bytes)?;
        Ok(Self::Sealed(Sealed {
            bytes: Zeroizing::new(bytes.to_vec()),
            layer: read.layer,
        }))
    }

    /// Of which layer it is.
    pub fn layer(&self) -> &Label {
        match self {
            Self::Open(authority) => authority.layer(),
            Self::Sealed(sealed) => &sealed.layer,
        }
    }
}

impl Authority {
    /// Has its key lie under a passphrase from now on; `None`: as it is.
    pub fn seal(&mut self, passphrase: Option<&[u8]>) -> Result<(), Reason> {
        let Some(passphrase) = passphrase else {
            self.seal = None;
            return Ok(());
        };
        if !self.is_root() {
            let text = "this member issues with its own key, which it needs at each start; only a root can be sealed";
            return Err(Reason::new(Code::Usage, text));
        }
        let lock = Lock::new(passphrase)?;
        let keys = lock.seal(&self.keys())?;
        self.seal = Some(Seal { lock, keys });
        Ok(())
    }

    /// Whether its key lies under a passphrase.
    pub fn is_sealed(&self) -> bool {
        self.seal.is_some()
    }

    /// Forgets the key; `None` if it lies on disk as it is.
    pub fn lock(self) -> Option<Sealed> {
        self.seal.as_ref()?;
        Some(Sealed {
            bytes: self.to_bytes(),
            layer: self.layer,
        })
    }

    /// Has other keys lie as those before.
    pub(super) fn seal_again(&mut self) -> Result<(), Reason> {
        let keys = self.keys();
        if let Some(seal) = &mut self.seal {
            seal.keys = seal.lock.seal(&keys)?;
        }
        Ok(())
    }

    fn keys(&self) -> Zeroizing<Vec<u8>> {
        let mut w = Writer::new(KEYS, 1);
        w.bytes(self.root.pkcs8());
        if let Some(before) = &self.before {
            w.bytes(before.pkcs8());
        }
        w.finish()
    }

    pub(super) fn sealed_bytes(&self, seal: &Seal) -> Zeroizing<Vec<u8>> {
        let mut w = Writer::new(KIND, VERSION);
        w.bytes(self.layer.as_str().as_bytes())
            .bytes(&seal.keys)
            .bytes(self.root.der())
            .bytes(self.before.as_ref().map_or(&[], |before| before.der()))
            .bytes(&prost::Message::encode_to_vec(&self.written()));
        w.finish()
    }
}

/// The fields of such a file.
struct Fields<'a> {
    layer: Label,
    keys: &'a [u8],
    der: &'a [u8],
    before: &'a [u8],
    ledger: Ledger,
}

impl Sealed {
    /// The authority, if the passphrase is right.
    pub fn unlock(&self, passphrase: &[u8]) -> Result<Authority, Reason> {
        let damaged = |e: Corrupt| Reason::new(Code::Failed, e.to_string());
        let fields = Self::read(&self.bytes).map_err(damaged)?;
        let (lock, keys) = Lock::open(fields.keys, passphrase)?;
        let seal = Seal {
            lock,
            keys: fields.keys.to_vec(),
        };
        let mut authority = Self::opened(fields, &keys).map_err(damaged)?;
        authority.seal = Some(seal);
        Ok(authority)
    }

    fn opened(fields: Fields<'_>, keys: &[u8]) -> Result<Authority, Corrupt> {
        let mut r = Reader::new(KEYS, 1, keys)?;
        let load = |r: &mut Reader<'_>, der: &[u8]| {
            let pkcs8 = Zeroizing::new(r.bytes()?.to_vec());
            Root::load(pkcs8, der).ok_or_else(|| r.damaged("its key can't be used"))
        };
        let root = load(&mut r, fields.der)?;
        let before = match fields.before.is_empty() {
            true => None,
            false => Some(load(&mut r, fields.before)?),
        };
        r.end()?;
        let read = Authority::read(fields.layer, root, fields.ledger);
        let mut read = read.ok_or_else(|| r.damaged("a line of its ledger makes no sense"))?;
        read.before = before;
        Ok(read)
    }

    fn is(bytes: &[u8]) -> bool {
        bytes.starts_with(format!("strata {KIND}\n").as_bytes())
    }

    fn read(bytes: &[u8]) -> Result<Fields<'_>, Corrupt> {
        let mut r = Reader::new(KIND, VERSION, bytes)?;
        let fields = Fields {
            layer: r.text()?,
            keys: r.bytes()?,
            der: r.bytes()?,
            before: r.bytes()?,
            ledger: prost::Message::decode(r.bytes()?)
                .map_err(|_| r.damaged("its ledger can't be read"))?,
        };
        r.end()?;
        Ok(fields)
    }
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealed({})", self.layer)
    }
}

const KIND: &str = "sealed authority";
const VERSION: u16 = 1;
const KEYS: &str = "authority keys";
