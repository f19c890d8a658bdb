//! A bulk transfer over QUIC, by quinn: what `lab-bench` measures reliable flows beside, on the same hosts and link.
//!
//! The same classes of crypto (TLS 1.3 by ring, AES-256-GCM), controller (Cubic) and buffers as a flow has.

use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Parser, Subcommand};
use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, Endpoint, EndpointConfig, TokioRuntime, TransportConfig, VarInt};
use rustix::net::sockopt;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

#[derive(Parser)]
#[command(
    about = "Sends bulk data over QUIC and prints the goodput that the receiver counted, as JSON"
)]
struct Args {
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Count what comes, until stopped
    Serve {
        at: SocketAddr,
        /// Where the certificate is put for the sender
        #[arg(long)]
        cert: PathBuf,
    },
    /// Send to a server for so long
    Send {
        to: SocketAddr,
        #[arg(long)]
        cert: PathBuf,
        #[arg(short = 't', long, default_value_t = 3.0)]
        seconds: f64,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Args::parse().part {
        Part::Serve { at, cert } => serve(at, &cert).await,
        Part::Send { to, cert, seconds } => {
            let json = send(to, &cert, Duration::from_secs_f64(seconds)).await?;
            writeln!(std::io::stdout(), "{json}").context("can't print")
        }
    }
}

async fn serve(at: SocketAddr, cert: &Path) -> anyhow::Result<()> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).context("no certificate")?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(transport());
    let endpoint = endpoint(at, Some(config))?;
    // Who finds it may connect.
    std::fs::write(cert, made.cert.der()).context("can't write the certificate")?;
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            // The sender says what went wrong, if something did.
            if let Ok(connection) = incoming.await {
                let _ = count(&connection).await;
            }
        });
    }
    Ok(())
}

/// Reads the one stream of a connection and answers with the bytes and the time from the first to the last.
async fn count(connection: &Connection) -> anyhow::Result<()> {
    let (mut back, mut stream) = connection.accept_bi().await?;
    let (mut bytes, mut first, mut last) = (0u64, None, Instant::now());
    while let Some(chunk) = stream.read_chunk(CHUNK, true).await? {
        last = Instant::now();
        first.get_or_insert(last);
        bytes += chunk.bytes.len() as u64;
    }
    let nanos = first.map_or(0, |first| last.duration_since(first).as_nanos() as u64);
    back.write_all(&[bytes.to_be_bytes(), nanos.to_be_bytes()].concat())
        .await?;
    back.finish()?;
    connection.closed().await;
    Ok(())
}

async fn send(to: SocketAddr, cert: &Path, time: Duration) -> anyhow::Result<serde_json::Value> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from(std::fs::read(cert)?))?;
    let tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(transport());
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let endpoint = endpoint(any.parse()?, None)?;
    let connection = endpoint.connect_with(config, to, NAME)?.await?;
    let (mut stream, mut back) = connection.open_bi().await?;
    let (filling, end) = (vec![0; CHUNK], Instant::now() + time);
    while Instant::now() < end {
        stream.write_all(&filling).await?;
    }
    stream.finish()?;
    let answer = back.read_to_end(16).await?;
    let word = |at: usize| {
        let bytes = answer.get(at..at + 8).and_then(|b| b.try_into().ok());
        bytes.map(u64::from_be_bytes).context("a short answer")
    };
    let (bytes, seconds) = (word(0)?, word(8)? as f64 / 1e9);
    let path = connection.stats().path;
    connection.close(VarInt::from_u32(0), b"");
    Ok(serde_json::json!({
        "bytes": bytes,
        "seconds": seconds,
        "gbit_per_s": bytes as f64 * 8e-9 / seconds.max(1e-9),
        "lost_packets": path.lost_packets,
        "sent_packets": path.sent_packets,
    }))
}

fn provider() -> Arc<CryptoProvider> {
    let cipher_suites = vec![
        ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
        // For the first packets, as RFC 9001 demands.
        ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
    ];
    Arc::new(CryptoProvider {
        cipher_suites,
        ..ring::default_provider()
    })
}

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .congestion_controller_factory(Arc::new(CubicConfig::default()))
        .stream_receive_window(VarInt::from_u32(WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(WINDOW.into());
    Arc::new(transport)
}

fn endpoint(at: SocketAddr, config: Option<quinn::ServerConfig>) -> anyhow::Result<Endpoint> {
    let socket = UdpSocket::bind(at).with_context(|| format!("can't bind {at}"))?;
    if sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, BUFFER)?;
    }
    if sockopt::set_socket_send_buffer_size_force(&socket, BUFFER).is_err() {
        sockopt::set_socket_send_buffer_size(&socket, BUFFER)?;
    }
    let runtime = Arc::new(TokioRuntime);
    Endpoint::new(EndpointConfig::default(), config, socket, runtime).context("no endpoint")
}

const NAME: &str = "lab-quic";
/// Bytes of a write, and at most of a read.
const CHUNK: usize = 64 << 10;
/// Bytes that may be unacknowledged: more than any link of the Lab holds.
const WINDOW: u32 = 16 << 20;
/// Of the socket, as those of a flow's.
const BUFFER: usize = 1 << 20;
