"""What a clinic does when a message arrives, one function an instruction."""
