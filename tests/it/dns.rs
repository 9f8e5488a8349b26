//! The name server over real sockets, asked by real clients.
