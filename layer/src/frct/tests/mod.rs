//! Two ends and a link that loses, doubles and swaps, in virtual time.

mod bottleneck;
mod link;
mod lossy;
mod model;
mod reliable;
mod windows;
