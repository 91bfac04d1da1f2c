//! The programs as their users run them: processes, sockets, files and signals.

mod accept;
mod admin_token;
mod catch_up;
mod crash;
mod credentials;
mod demo;
mod events;
mod postgres;
mod readme;
mod secrets;
mod support;
