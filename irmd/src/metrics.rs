//! Everything that is counted, as Prometheus text: by `Admin.Metrics`, and by `GET /metrics` on the administrators' socket.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use proto::irm::StatusReply;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::daemon::Daemon;
use crate::status;

/// The text for a status at this time, since the epoch of Unix.
pub(crate) fn text(status: &StatusReply, now: Duration) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("strata");
    let drops = Labelled::default();
    let counters = Labelled::default();
    let levels = Levels::default();
    let sort = |process: &str, layer: &str, name: &str, value: u64| {
        let labels = |key, what: &str| {
            vec![
                ("process", process.to_owned()),
                ("layer", layer.to_owned()),
                (key, what.to_owned()),
            ]
        };
        if let Some(level) = name.strip_prefix("now.") {
            levels
                .get_or_create(&labels("what", level))
                .set(i64::try_from(value).unwrap_or(i64::MAX));
            return;
        }
        let (family, key, reason) = match name.strip_prefix("drop.") {
            Some(reason) => (&drops, "reason", reason),
            None => (&counters, "what", name),
        };
        family.get_or_create(&labels(key, reason)).inc_by(value);
    };
    for (name, value) in &status.counters {
        sort("irmd", "", name, *value);
    }
    for ipcp in &status.ipcps {
        for (name, value) in ipcp.status.iter().flat_map(|s| &s.counters) {
            sort(&ipcp.name, &ipcp.layer, name, *value);
        }
    }
    for vpn in &status.vpns {
        for (name, value) in &vpn.counters {
            sort(&vpn.dev, &vpn.layer, name, *value);
        }
    }
    registry.register("drops", "What was dropped, by reason", drops);
    registry.register("events", "What was counted besides drops", counters);
    registry.register("level", "What there is of something now", levels);
    gauges(status, &mut registry);
    ends(status, now, &mut registry);
    flows(status, &mut registry);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

type Labels = Vec<(&'static str, String)>;
type Labelled = Family<Labels, Counter<u64, AtomicU64>>;
type Levels = Family<Labels, Gauge>;

fn gauges(status: &StatusReply, registry: &mut Registry) {
    let (up, restarts) = (Levels::default(), Labelled::default());
    for ipcp in &status.ipcps {
        let labels = vec![
            ("process", ipcp.name.clone()),
            ("layer", ipcp.layer.clone()),
        ];
        up.get_or_create(&labels).set(i64::from(ipcp.state == "up"));
        restarts
            .get_or_create(&labels)
            .inc_by(u64::from(ipcp.restarts));
    }
    for vpn in &status.vpns {
        let labels = vec![("process", vpn.dev.clone()), ("layer", vpn.layer.clone())];
        up.get_or_create(&labels).set(i64::from(vpn.state == "up"));
    }
    registry.register("up", "1 where the process is up", up);
    registry.register(
        "restarts",
        "How often the process was started anew",
        restarts,
    );
    let members = Levels::default();
    for layer in &status.layers {
        members
            .get_or_create(&vec![("layer", layer.name.clone())])
            .set(i64::from(layer.members));
    }
    registry.register(
        "members",
        "Members of the layer that this host knows",
        members,
    );
    let uptime = Gauge::<i64>::default();
    uptime.set(
        status
            .daemon
            .as_ref()
            .map_or(0, |d| i64::try_from(d.uptime_ms / 1000).unwrap_or(i64::MAX)),
    );
    registry.register("uptime_seconds", "Since irmd began", uptime);
}

/// How long what a member shows and believes still counts.
fn ends(status: &StatusReply, now: Duration, registry: &mut Registry) {
    let (certificates, roots) = (Levels::default(), Levels::default());
    let left = |end: u64| {
        let left = i128::from(end) - i128::from(now.as_secs());
        i64::try_from(left).unwrap_or(i64::MAX)
    };
    for ipcp in &status.ipcps {
        let Some(said) = &ipcp.status else { continue };
        let labels = vec![
            ("process", ipcp.name.clone()),
            ("layer", ipcp.layer.clone()),
        ];
        if said.cert_expires > 0 {
            certificates
                .get_or_create(&labels)
                .set(left(said.cert_expires));
        }
        for root in said.trust.iter().flat_map(|trust| &trust.roots) {
            let mut labels = labels.clone();
            labels.push(("root", root.fingerprint.chars().take(16).collect()));
            roots.get_or_create(&labels).set(left(root.expires));
        }
    }
    registry.register(
        "certificate_expires_in_seconds",
        "How long the certificate of a member lives yet; below 0 since its end",
        certificates,
    );
    registry.register(
        "root_expires_in_seconds",
        "How long a root that a member believes lives yet; below 0 since its end",
        roots,
    );
    let warnings = Gauge::<i64>::default();
    warnings.set(i64::try_from(status.warnings.len()).unwrap_or(i64::MAX));
    registry.register("warnings", "What irm status warns of now", warnings);
}

fn flows(status: &StatusReply, registry: &mut Registry) {
    let (count, bytes) = (Levels::default(), Labelled::default());
    for flow in &status.flows {
        let labels = vec![("layer", flow.layer.clone()), ("state", flow.state.clone())];
        count.get_or_create(&labels).inc();
        for (direction, n) in [("rx", flow.rx_bytes), ("tx", flow.tx_bytes)] {
            let labels = vec![
                ("flow", flow.id.to_string()),
                ("layer", flow.layer.clone()),
                ("direction", direction.to_owned()),
            ];
            bytes.get_or_create(&labels).inc_by(n);
        }
    }
    registry.register("flows", "Flows of this host", count);
    registry.register("flow_bytes", "Bytes of flows that stand", bytes);
}

/// Answers `GET /metrics`; everything else goes on to gRPC.
#[derive(Debug, Clone)]
pub(crate) struct Page<S> {
    daemon: Arc<Daemon>,
    inner: S,
}

/// Puts a [`Page`] before a service.
#[derive(Debug, Clone)]
pub(crate) struct PageLayer(Arc<Daemon>);

impl Page<()> {
    /// The page of this daemon.
    pub(crate) fn layer(daemon: Arc<Daemon>) -> PageLayer {
        PageLayer(daemon)
    }
}

impl<S> Layer<S> for PageLayer {
    type Service = Page<S>;

    fn layer(&self, inner: S) -> Page<S> {
        Page {
            daemon: self.0.clone(),
            inner,
        }
    }
}

impl<S> Service<http::Request<Body>> for Page<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.method() != http::Method::GET || request.uri().path() != "/metrics" {
            return Box::pin(self.inner.call(request));
        }
        let daemon = self.daemon.clone();
        Box::pin(async move { Ok(page(&daemon).await) })
    }
}

async fn page(daemon: &Arc<Daemon>) -> http::Response<Body> {
    let mut response = http::Response::default();
    match text(&status::reply(daemon).await, crate::events::now()) {
        Ok(text) => {
            let kind = http::HeaderValue::from_static(
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            );
            response
                .headers_mut()
                .insert(http::header::CONTENT_TYPE, kind);
            *response.body_mut() = Body::new(text);
        }
        Err(_) => *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR,
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::irm::{IpcpInfo, IpcpStatus, LayerTrust, Root};

    #[test]
    fn drops_carry_their_reason_and_their_process() {
        let status = IpcpStatus {
            counters: [
                ("drop.forged".to_owned(), 3),
                ("sent".to_owned(), 4),
                ("now.pending".to_owned(), 2),
            ]
            .into(),
            ..IpcpStatus::default()
        };
        let ipcp = IpcpInfo {
            name: "a".into(),
            layer: "ovl".into(),
            state: "up".into(),
            status: Some(status),
            ..IpcpInfo::default()
        };
        let status = StatusReply {
            ipcps: vec![ipcp],
            ..StatusReply::default()
        };
        let text = text(&status, Duration::ZERO).unwrap();
        for line in [
            r#"strata_drops_total{process="a",layer="ovl",reason="forged"} 3"#,
            r#"strata_events_total{process="a",layer="ovl",what="sent"} 4"#,
            r#"strata_level{process="a",layer="ovl",what="pending"} 2"#,
            r#"strata_up{process="a",layer="ovl"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_certificate_counts_down_to_its_end_and_beyond_it() {
        let status = IpcpStatus {
            cert_expires: 1_000_000,
            trust: Some(LayerTrust {
                roots: vec![Root {
                    fingerprint: "0123456789abcdef0123".into(),
                    expires: 3_000_000,
                    ends: false,
                }],
                ..LayerTrust::default()
            }),
            ..IpcpStatus::default()
        };
        let ipcp = |name: &str, status| IpcpInfo {
            name: name.into(),
            layer: "ovl".into(),
            status: Some(status),
            ..IpcpInfo::default()
        };
        let status = StatusReply {
            ipcps: vec![ipcp("a", status), ipcp("shim", IpcpStatus::default())],
            warnings: vec!["the certificate of a expires in 7 days".into()],
            ..StatusReply::default()
        };
        let days = |days: u64| Duration::from_secs(1_000_000 - days * 86_400);
        let certificate = "strata_certificate_expires_in_seconds{process=\"a\",layer=\"ovl\"}";
        for (now, left) in [
            (days(7), 7 * 86_400),
            (days(1), 86_400),
            (days(0), 0),
            (days(0) + Duration::from_secs(60), -60),
        ] {
            let text = text(&status, now).unwrap();
            assert!(text.contains(&format!("{certificate} {left}\n")), "{text}");
        }
        let text = text(&status, days(0)).unwrap();
        for line in [
            "strata_root_expires_in_seconds{process=\"a\",layer=\"ovl\",root=\"0123456789abcdef\"} 2000000",
            "strata_warnings 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        let shims = text
            .lines()
            .filter(|l| l.contains("shim") && l.contains("expires"));
        assert_eq!(shims.count(), 0, "{text}");
    }
}
