"""What a finished run says about its method, with and without target labels."""
