"""NIR, the Neuromorphic Intermediate Representation: networks and recordings, in and out.

Source: Pedersen et al., "Neuromorphic intermediate representation", Nature Communications 2024; nir 1.0.8.
"""

from lavasnn.interop.nir_data import read_recording, write_recording
from lavasnn.interop.nir_read import read_nir
from lavasnn.interop.nir_write import to_nir, write_nir

__all__ = ["read_nir", "read_recording", "to_nir", "write_nir", "write_recording"]
