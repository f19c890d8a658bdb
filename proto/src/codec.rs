//! How messages stand in gRPC frames: as everywhere, but bytes that are no message are the sender's mistake, told as a [`Reason`].

use std::fmt;
use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{DecodeBuf, Decoder};
use tonic_prost::ProstEncoder;

use crate::reason::{Code, Reason};

/// Of one method: writes `T`, reads `U`.
pub struct Codec<T, U>(PhantomData<(T, U)>);

/// Reads messages of one type.
pub struct Parser<U>(PhantomData<U>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> fmt::Debug for Codec<T, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Codec")
    }
}

impl<U> fmt::Debug for Parser<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Parser")
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + 'static,
    U: Message + Default + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Parser<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        Parser(PhantomData)
    }
}

impl<U: Message + Default> Decoder for Parser<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        U::decode(buf).map(Some).map_err(|error| {
            let text = error.to_string();
            let what = text.strip_prefix(PROST).unwrap_or(&text);
            Reason::new(Code::Usage, format!("malformed message: {what}")).into()
        })
    }
}

/// How prost begins all that it says.
const PROST: &str = "failed to decode Protobuf message: ";
