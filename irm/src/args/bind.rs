//! `irm bind` and `irm unbind`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use proto::Name;

#[derive(Debug, Subcommand)]
pub(crate) enum BindVerb {
    /// Every process of a program
    #[command(
        after_help = "Examples:\n  irm bind program /usr/bin/httpd --name web\n  irm bind program httpd --name web --auto -- -f web.conf"
    )]
    Program(Program),
    /// One running process
    #[command(after_help = "Example:\n  irm bind process 4711 --name web")]
    Process(Process),
}

#[derive(Debug, Subcommand)]
pub(crate) enum UnbindVerb {
    /// Every process of a program
    #[command(after_help = "Example:\n  irm unbind program /usr/bin/httpd --name web")]
    Program {
        /// The program's file, as it was bound
        path: PathBuf,
        /// The name whose flows it no longer accepts
        #[arg(long, value_name = "NAME")]
        name: Name,
    },
    /// One running process
    #[command(after_help = "Example:\n  irm unbind process 4711 --name web")]
    Process(Process),
}

#[derive(Debug, Args)]
pub(crate) struct Program {
    /// The program's file, by path or looked up in $PATH
    pub(crate) path: PathBuf,
    /// The name whose flows it accepts
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Name,
    /// Start it when a flow comes and nobody accepts
    #[arg(long)]
    pub(crate) auto: bool,
    /// Its arguments when it is started
    #[arg(last = true, value_name = "ARG", requires = "auto")]
    pub(crate) args: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Process {
    /// Its process id
    #[arg(value_parser = super::pid)]
    pub(crate) pid: u32,
    /// The name
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Name,
}
