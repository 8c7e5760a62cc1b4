"""mpqc: trained network + budget on a chip -> mixed-precision integer program, with its proof and its benchmark."""

__version__ = "0.1.0"
