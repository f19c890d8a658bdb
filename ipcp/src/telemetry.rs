//! What a process tells of itself on standard error.

use tracing_subscriber::EnvFilter;

/// Starts logging to standard error for the process `name`; `IRM_LOG` is the filter (default: `info`). Called once.
pub fn init(name: &str) {
    let filter = EnvFilter::try_from_env("IRM_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    // Fails only if somebody else has begun to log, who then keeps at it.
    let _ = log.try_init();
    tracing::debug!("{name} starts");
}
