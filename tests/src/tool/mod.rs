//! The small programs of `lab-tool`: what an ordinary user of IP does.

mod bad;
mod capture;
mod device;
mod dns;
mod frame;
mod hello;
mod http;
mod ping;
mod pour;
mod socks;
mod tcp;
mod udp;

use std::io::Write;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "lab-tool",
    about = "Ping, HTTP, TCP, UDP and SOCKS for tests and the demo"
)]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Echo UDP datagrams
    UdpEcho { at: SocketAddr },
    /// Send datagrams one by one and count the echoes
    UdpSend { to: SocketAddr, count: u32 },
    /// Send datagrams at a rate and print how many went out as JSON
    UdpPour(pour::Pour),
    /// Count datagrams and print how many have come as JSON, line by line
    UdpSink { at: SocketAddr },
    /// Ask a UDP shim for a flow by its wire alone, and count echoed SDUs
    SeedClient {
        to: SocketAddr,
        name: String,
        count: u32,
    },
    /// Send datagrams that mean nothing, of all sizes
    UdpNoise {
        to: SocketAddr,
        count: u32,
        /// A second
        #[arg(long, default_value_t = 30_000)]
        rate: u32,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Send a text from ever other addresses that this host does not have
    UdpFlood {
        to: SocketAddrV4,
        text: String,
        /// A second
        #[arg(long, default_value_t = 20_000)]
        rate: u32,
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
    },
    /// Answer a request as a UDP shim does, and write the first messages of the handshake that comes into a file
    HelloCatch { at: SocketAddr, file: PathBuf },
    /// Begin handshakes with a member, by what was caught, and end none
    HelloFlood {
        to: SocketAddr,
        name: String,
        file: PathBuf,
        /// A second
        #[arg(long, default_value_t = 2_000)]
        rate: u32,
        #[arg(long, default_value_t = 5.0)]
        seconds: f64,
        /// Over so many flows
        #[arg(long, default_value_t = 32)]
        flows: usize,
    },
    /// Echo UDP datagrams from a wrong address and with wrong bytes
    UdpImpostor { at: SocketAddr, other: IpAddr },
    /// Show a token, in hexadecimal digits, at a data socket and print what is heard
    Join { socket: PathBuf, token: String },
    /// Ask irmd for a flow in the session, in hexadecimal digits, of another program
    Borrow { name: String, session: String },
    /// Send ICMP echo requests and print what came back as JSON
    Ping {
        to: IpAddr,
        /// How many
        #[arg(short, default_value_t = 10)]
        count: u16,
        /// Milliseconds between two
        #[arg(short, default_value_t = 10)]
        interval_ms: u64,
        /// Bytes of payload
        #[arg(short, default_value_t = 56)]
        size: usize,
        /// End at the first answer, trying for at most so many milliseconds
        #[arg(long)]
        first_within_ms: Option<u64>,
        /// The code point of requests over IPv4
        #[arg(long, default_value_t = 0)]
        dscp: u8,
    },
    /// Serve one file of so many bytes, made from a seed
    HttpServe {
        at: SocketAddr,
        bytes: u64,
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Words that every other KiB of the file consists of
        #[arg(long, default_value = "")]
        text: String,
    },
    /// Watch all devices for frames that hold a text, until stdin ends; print frames, bytes, hits and classes of each as JSON
    Capture {
        needle: String,
        /// At most so many seconds
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Make a TUN device; print each frame that the host gives it, and give it those that come on stdin, all in hexadecimal digits
    Device {
        name: String,
        /// A header in front of each frame of stdin says whether it is a super-packet
        #[arg(long)]
        heads: bool,
    },
    /// Print the address of a device on layer 2, in hexadecimal digits
    Mac { device: String },
    /// Send a frame of Ethernet, in hexadecimal digits, and print how many were taken
    FrameSend {
        device: String,
        frame: String,
        #[arg(long, default_value_t = 1)]
        count: u64,
        /// A second
        #[arg(long, default_value_t = 10_000)]
        rate: u32,
    },
    /// Print each frame that a device gets for the host, in hexadecimal digits, until stdin ends
    FrameWatch { device: String },
    /// Fetch it and print bytes, seconds and SHA-256 as JSON
    HttpGet { from: SocketAddr },
    /// Take TCP connections
    TcpServe {
        at: SocketAddr,
        #[arg(long, value_enum, default_value = "echo")]
        manner: tcp::Manner,
    },
    /// Make TCP connections, send bytes, end, and print how many got them back, and how the others ended
    TcpExchange(tcp::Exchange),
    /// Write to a TCP server that reads nothing, and print how many bytes that took
    TcpFill { to: SocketAddr },
    /// Ask a name server and print what it said
    AskDns {
        at: SocketAddr,
        name: String,
        /// A, AAAA, PTR
        kind: String,
    },
    /// Answer as a name server that knows one name, and print how often it was asked as JSON, line by line
    DnsServe {
        at: SocketAddr,
        name: String,
        address: IpAddr,
    },
    /// Send datagrams through a SOCKS proxy and print how many came back
    SocksUdp {
        proxy: SocketAddr,
        /// HOST:PORT
        to: String,
        #[arg(default_value_t = 10)]
        count: u32,
        #[arg(default_value_t = 100)]
        size: usize,
    },
}

/// Runs the program.
pub fn main() -> anyhow::Result<()> {
    match Args::parse().verb {
        Verb::AskDns { at, name, kind } => dns::ask(at, &name, &kind),
        Verb::DnsServe { at, name, address } => dns::serve(at, &name, address),
        Verb::UdpEcho { at } => udp::echo(at),
        Verb::UdpSend { to, count } => udp::send(to, count),
        Verb::UdpPour(how) => pour::pour(&how),
        Verb::UdpSink { at } => pour::sink(at),
        Verb::SeedClient { to, name, count } => udp::seed_client(to, &name, count),
        Verb::UdpNoise {
            to,
            count,
            rate,
            seed,
        } => bad::noise(to, count, rate, seed),
        Verb::UdpFlood {
            to,
            text,
            rate,
            seconds,
        } => bad::flood(to, &text, rate, seconds),
        Verb::HelloCatch { at, file } => hello::catch(at, &file),
        Verb::HelloFlood {
            to,
            name,
            file,
            rate,
            seconds,
            flows,
        } => hello::flood(to, &name, &file, rate, seconds, flows),
        Verb::UdpImpostor { at, other } => bad::impostor(at, other),
        Verb::Join { socket, token } => bad::join(&socket, &token),
        Verb::Borrow { name, session } => bad::borrow(name, &session),
        Verb::Ping {
            to,
            count,
            interval_ms,
            size,
            first_within_ms,
            dscp,
        } => {
            let manner = ping::Manner { size, dscp };
            ping::run(to, count, interval_ms, manner, first_within_ms)
        }
        Verb::HttpServe {
            at,
            bytes,
            seed,
            text,
        } => http::serve(at, bytes, seed, &text),
        Verb::Capture { needle, seconds } => capture::run(&needle, seconds),
        Verb::Device { name, heads } => device::run(&name, heads),
        Verb::Mac { device } => frame::mac(&device),
        Verb::FrameSend {
            device,
            frame,
            count,
            rate,
        } => frame::send(&device, &frame, count, rate),
        Verb::FrameWatch { device } => frame::watch(&device),
        Verb::HttpGet { from } => http::get(from),
        Verb::TcpServe { at, manner } => tcp::serve(at, manner),
        Verb::TcpExchange(how) => tcp::exchange(how),
        Verb::TcpFill { to } => tcp::fill(to),
        Verb::SocksUdp {
            proxy,
            to,
            count,
            size,
        } => socks::datagrams(proxy, &to, count, size),
    }
}

fn bytes(hex: &str) -> anyhow::Result<Vec<u8>> {
    let digits = |at: usize| hex.get(at..at + 2).map(|d| u8::from_str_radix(d, 16));
    (0..hex.len())
        .step_by(2)
        .map(|at| digits(at).context("half a byte")?.context("no digits"))
        .collect()
}

fn print(line: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{line}").context("can't print")
}
