"""What a clinic does when a message arrives: Flower ClientApp handlers."""
