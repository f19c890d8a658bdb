//! The unicast IPC process as a program: `irmd` starts it. It must not hold logic of its own.

fn main() -> anyhow::Result<()> {
    ipcpd::run(|_, _| ())
}
