//! A program that greets, and one that wants to be greeted, in one.

use libflow::{AllocOptions, FlowError, Irm};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), FlowError> {
    let irm = Irm::connect(None).await?; // finds irmd's run directory
    let mut listener = irm.listen("greeter", &[]).await?; // a name for programs of this host
    tokio::spawn(async move {
        while let Ok(incoming) = listener.accept().await {
            let flow = incoming.accept().await?;
            let mut name = vec![0; flow.mtu() as usize];
            let len = flow.read(&mut name).await?;
            flow.write(&[b"hello, ", &name[..len]].concat()).await?;
        }
        Ok::<_, FlowError>(())
    });
    let flow = irm.allocate("greeter", AllocOptions::default()).await?;
    flow.write(b"world").await?;
    let mut answer = [0; 100];
    let len = flow.read(&mut answer).await?;
    assert_eq!(&answer[..len], b"hello, world");
    Ok(())
}
