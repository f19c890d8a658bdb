//! Two ends and a link that loses, doubles and swaps, in virtual time.

mod link;
mod reliable;
