"""lava-dl's netx HDF5 (`.net`), read and written. Values are datasets; numbers may be floats and count as integers.

    layer/0           type = "input", shape (channel, row, column) or (neuron,); if it has neurons of its own: neuron/*,
                      weight and bias, by which whoever runs the network turns pixels into the biases of these neurons
    layer/1, 2, ...   type = "dense" or "dense_rec", shape, weight (post, pre), weight_rec (post, post) if recurrent,
                      bias (post,), delay: one number, (post,), (pre,) or (post, pre)
                      type = "conv", shape, weight (out, in / groups, row, column) as torch has it, a fifth axis of 1 allowed,
                      stride, padding, dilation (row, column), groups, bias (channel,) or (column, row, channel)
                      type = "flatten": images become vectors in the order (channel, row, column)
    neuron/type       "CUBA" or "LOIHI": Lava's LIF, with iDecay = du + 1, vDecay = dv, vThMant = vth

netx reads iDecay back as du = iDecay - 1, shifts every bias left by 6, cuts delays to 62 and ignores refDelay, gradedSpike,
wgtExp, theta, scaleRho and tauRho. It scales the weights of dense layers (see `netx_weights`).

The n-th layer answers n steps after its input (each synapse adds one). netx resets nothing between samples unless told to:
`Network(path, reset_interval=graph.steps, reset_offset=1)` starts each sample from rest. Without a reset, biases charge the
n-th layer during the n steps before its first input arrives, so that even the first sample differs. Of a recurrent network or
one with delays of single synapses all populations count the same steps, and netx, run once from rest without a reset, gives
the same spikes in the same steps.

Source: lava-dl 0.6.0, lava/lib/dl/netx/hdf5.py, Network, and netx/blocks/process.py; lava-nc 0.10.0.
"""

from lavasnn.interop.netx_read import read_drive, read_net
from lavasnn.interop.netx_write import write_net

__all__ = ["read_drive", "read_net", "write_net"]
