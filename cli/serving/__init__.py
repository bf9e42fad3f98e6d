"""Commands that serve HTTP, and the sockets they listen on."""
