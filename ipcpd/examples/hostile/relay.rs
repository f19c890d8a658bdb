//! Requests to join that this member relays to the issuer, and the answers to them.

use layer::crypt::Invitation;
use layer::{Own, UnixTime};
use proto::Label;
use proto::wire::{EnrolRelay, EnrolReply, EnrolRequest};
use ring::digest::{SHA256, digest};

use crate::desk::Desk;

/// What the issuer is told: the true request among false ones.
pub(crate) fn requests(desk: &mut Desk, own: &Own<'_>, relay: EnrolRelay) -> Vec<EnrolRelay> {
    let Some(request) = relay.request.clone().filter(|_| desk.orders.requests) else {
        return vec![relay];
    };
    let mut all = Vec::new();
    let mut say = |request: EnrolRequest, exporter: &[u8]| {
        all.push(EnrolRelay {
            // The answers to these are not for the joiner.
            id: relay.id + FALSE + all.len() as u64,
            request: Some(request),
            exporter: exporter.to_vec(),
            hops: relay.hops,
        });
    };
    // Its own key for the joiner's name and for another, with a seed of its own and with what the true seed has signed.
    for name in [joiner(&request), "mallory".to_owned()] {
        let Some(mine) = request_of(own, &request, &name, &relay.exporter) else {
            tracing::error!("no request could be made for {name:?}");
            continue;
        };
        let signature = request.seed_signature.clone();
        say(mine.clone(), &relay.exporter);
        say(
            EnrolRequest {
                seed_signature: signature,
                ..mine
            },
            &relay.exporter,
        );
    }
    // The true one, altered, and over another session.
    let mut altered = request.clone();
    if let Some(last) = altered.csr.last_mut() {
        *last ^= 1;
    }
    say(altered, &relay.exporter);
    say(request.clone(), &[7; 32]);
    desk.report.requests += all.len() as u64 + 1;
    let again = EnrolRelay {
        id: relay.id + 2 * FALSE,
        ..relay.clone()
    };
    all.extend([relay, again]);
    all
}

/// Lies to the joiner about the first answers: the certificate of another, none that can be read, another root.
pub(crate) fn answer(desk: &mut Desk, own: &Own<'_>, reply: &mut EnrolReply) {
    if desk.report.answers >= desk.orders.answers || reply.code != 0 {
        return;
    }
    let mine = own.identity.cert().der();
    match desk.report.answers % 3 {
        0 => reply.certificate = mine.to_vec(),
        1 => reply.certificate.truncate(reply.certificate.len() / 2),
        _ => reply.chain = vec![mine.to_vec()],
    }
    desk.report.answers += 1;
}

/// A request as this member would make it, if the seed of the invitation were the one that it has made up.
fn request_of(
    own: &Own<'_>,
    request: &EnrolRequest,
    name: &str,
    exporter: &[u8],
) -> Option<EnrolRequest> {
    let text = format!(
        "strata://{}/enrol?v=1,id={},by={},exp={},root={},seed={}",
        own.identity.layer(),
        hex(&request.invitation),
        request.issuer,
        u64::MAX / 2,
        hex(&[7; 32]),
        hex(&[8; 32]),
    );
    let sum = hex(&digest(&SHA256, text.as_bytes()).as_ref()[..4]);
    let now = UnixTime(std::time::Duration::ZERO);
    let invitation = Invitation::parse(&format!("{text},sum={sum}"), now).ok()?;
    let joiner = invitation.start(&Label::new(name).ok()?).ok()?;
    Some(joiner.request(exporter.try_into().ok()?))
}

/// The name in a request: it stands behind the layer's in a URI.
fn joiner(request: &EnrolRequest) -> String {
    let text = String::from_utf8_lossy(&request.csr);
    let behind = text.split("strata://").nth(1).unwrap_or_default();
    let name = behind.split('/').nth(1).unwrap_or_default();
    let is = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-';
    name.chars().take_while(is).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Above all numbers that true requests get.
const FALSE: u64 = 1 << 32;
